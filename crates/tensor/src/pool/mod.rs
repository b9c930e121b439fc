//! Buffers that are handed out again instead of going back to the system.
//!
//! A training step allocates and frees the same sizes in the same order, so after the first step every request finds
//! an idle block. Large ones lie in one arena, whose height is hardly more than what is in use at once; smaller ones are
//! rounded up to one eighth of a power of two and wait for a request of their size. Blocks are 64-byte aligned and always
//! hold initialised floats (zeros from the system, or what the last user left).

mod arena;

use arena::Arena;
pub(crate) use arena::Places;
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Requests below this many floats bypass the pool: the system's allocator is good at small ones.
const SMALL: usize = 1024;
const ALIGN: usize = 64;
/// Blocks of at least this many floats are aligned to, and asked to be made of, huge pages: matrix products touch many
/// rows at once, and with small pages they wait for address translation.
const HUGE: usize = 1 << 20;
const HUGE_ALIGN: usize = 2 << 20;

struct Block {
    ptr: NonNull<f32>,
    capacity: usize,
    /// Whether it lies in the arena, which takes it back.
    in_arena: bool,
}

// SAFETY: a block is uniquely owned memory; only its owner reads or writes through the pointer.
unsafe impl Send for Block {}
// SAFETY: shared access gives out `&[f32]` only.
unsafe impl Sync for Block {}

fn layout(capacity: usize) -> Layout {
    let align = if capacity >= HUGE { HUGE_ALIGN } else { ALIGN };
    Layout::from_size_align(capacity * size_of::<f32>(), align).expect("buffer size overflows")
}

#[cfg(target_os = "linux")]
fn advise_huge(raw: *mut u8, bytes: usize) {
    // SAFETY: advice on memory that this block owns; it changes no content, and failure is harmless.
    unsafe { libc::madvise(raw.cast(), bytes, libc::MADV_HUGEPAGE) };
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: *mut u8, _: usize) {}

impl Block {
    fn from_system(capacity: usize) -> Self {
        let layout = layout(capacity);
        let huge = capacity >= HUGE;
        // With a large alignment the standard library would clear the memory by hand, before the advice could help.
        // SAFETY: the layout's size is not zero, `capacity` is at least 1.
        let raw = unsafe { if huge { alloc(layout) } else { alloc_zeroed(layout) } } as *mut f32;
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        if huge {
            advise_huge(raw.cast(), layout.size());
            // SAFETY: `capacity` floats were just allocated.
            unsafe { raw.write_bytes(0, capacity) };
        }
        Self { ptr, capacity, in_arena: false }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.in_arena {
            return;
        }
        // SAFETY: allocated in `from_system` with the same layout.
        unsafe { dealloc(self.ptr.as_ptr() as *mut u8, layout(self.capacity)) }
    }
}

struct State {
    /// For blocks of at least [`HUGE`] floats; made with the first of them.
    arena: Option<Arena>,
    arena_refused: bool,
    arena_live: usize,
    idle: BTreeMap<usize, Vec<Block>>,
    idle_floats: usize,
    live_floats: usize,
    peak_live: usize,
    system_requests: u64,
}

static POOL: Mutex<State> = Mutex::new(State {
    arena: None,
    arena_refused: false,
    arena_live: 0,
    idle: BTreeMap::new(),
    idle_floats: 0,
    live_floats: 0,
    peak_live: 0,
    system_requests: 0,
});

impl State {
    /// A block from the arena; `None` where there is none, or no room in it.
    fn take_from_arena(&mut self, len: usize) -> Option<Block> {
        if self.arena.is_none() && !self.arena_refused {
            self.arena = Arena::reserve();
            self.arena_refused = self.arena.is_none();
        }
        let (ptr, capacity, rose) = self.arena.as_mut()?.take(len)?;
        self.system_requests += u64::from(rose);
        self.arena_live += capacity;
        self.live_floats += capacity;
        self.peak_live = self.peak_live.max(self.live_floats);
        Some(Block { ptr, capacity, in_arena: true })
    }
}

fn lock() -> MutexGuard<'static, State> {
    // The state is consistent between statements, so a panic elsewhere does not spoil it.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the pool holds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// In use by tensors now.
    pub live: usize,
    /// Kept for reuse.
    pub idle: usize,
    /// The most that was ever in use at once.
    pub peak_live: usize,
    /// How often the system was asked for memory.
    pub system_requests: u64,
}

/// The pool's present state.
pub fn usage() -> Usage {
    let state = lock();
    let arena_idle = state.arena.as_ref().map_or(0, Arena::held) - state.arena_live;
    Usage {
        live: state.live_floats * 4,
        idle: (state.idle_floats + arena_idle) * 4,
        peak_live: state.peak_live * 4,
        system_requests: state.system_requests,
    }
}

/// Gives all idle blocks back to the system (after a stage whose shapes will not come again).
pub fn trim() {
    let idle = {
        let mut state = lock();
        state.idle_floats = 0;
        state.peak_live = state.live_floats;
        if let Some(arena) = &mut state.arena {
            arena.trim();
        }
        std::mem::take(&mut state.idle)
    };
    drop(idle);
}

/// Makes sure that each thread of the current rayon pool finds idle blocks for one buffer of each of these lengths. To be
/// called before tasks that take them: how many tasks run at once is chance, what a step asks of the system is not.
pub(crate) fn prepare(lengths: &[usize]) {
    let threads = rayon::current_num_threads();
    let classes: Vec<usize> = lengths
        .iter()
        .map(|len| size_class(*len))
        .filter(|class| (SMALL + 1..HUGE).contains(class))
        .collect();
    let missing: Vec<usize> = {
        let mut state = lock();
        let mut missing = Vec::new();
        for (at, class) in classes.iter().enumerate().filter(|(at, class)| !classes[..*at].contains(class)) {
            let wanted = threads * classes[at..].iter().filter(|other| *other == class).count();
            let idle = state.idle.get(class).map_or(0, Vec::len);
            missing.extend(std::iter::repeat_n(*class, wanted.saturating_sub(idle)));
        }
        state.system_requests += missing.len() as u64;
        missing
    };
    let blocks: Vec<Block> = missing.into_iter().map(Block::from_system).collect();
    let mut state = lock();
    for block in blocks {
        state.idle_floats += block.capacity;
        state.idle.entry(block.capacity).or_default().push(block);
    }
}

/// Rounds up so that at most one eighth is wasted and similar sizes share blocks.
fn size_class(len: usize) -> usize {
    if len <= SMALL {
        return len.max(1).next_multiple_of(16);
    }
    len.next_multiple_of((len.next_power_of_two() / 16).max(16))
}

/// An owned run of floats from the pool.
pub(crate) struct Buffer {
    block: Option<Block>,
    len: usize,
}

impl Buffer {
    /// `len` floats of unspecified (but initialised) content.
    pub fn stale(len: usize) -> Self {
        Self::obtain(len).0
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let (mut buffer, fresh) = Self::obtain(len);
        if !fresh {
            buffer.fill(0.0);
        }
        buffer
    }

    fn obtain(len: usize) -> (Self, bool) {
        let class = size_class(len);
        if class <= SMALL {
            return (Self { block: Some(Block::from_system(class)), len }, true);
        }
        if class >= HUGE
            && let Some(block) = lock().take_from_arena(len)
        {
            return (Self { block: Some(block), len }, false);
        }
        let mut evicted = Vec::new();
        let reused = {
            let mut state = lock();
            // The exact class, or the next larger one that wastes at most half.
            let found = state.idle.range(class..=class + class / 2).next().map(|(size, _)| *size);
            let block = found.and_then(|size| {
                let blocks = state.idle.get_mut(&size)?;
                let block = blocks.pop();
                if blocks.is_empty() {
                    state.idle.remove(&size);
                }
                state.idle_floats -= size;
                block
            });
            state.live_floats += block.as_ref().map_or(class, |b| b.capacity);
            state.peak_live = state.peak_live.max(state.live_floats);
            if block.is_none() {
                state.system_requests += 1;
                // Shapes change over a run; what no longer fits must not pile up.
                while state.live_floats + state.idle_floats > 2 * state.peak_live + (16 << 20) {
                    let Some((size, mut blocks)) = state.idle.pop_last() else { break };
                    evicted.extend(blocks.pop());
                    state.idle_floats -= size;
                    if !blocks.is_empty() {
                        state.idle.insert(size, blocks);
                    }
                }
            }
            block
        };
        drop(evicted);
        match reused {
            Some(block) => (Self { block: Some(block), len }, false),
            None => (Self { block: Some(Block::from_system(class)), len }, true),
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(block) = self.block.take() else { return };
        if block.capacity <= SMALL {
            return;
        }
        let mut state = lock();
        state.live_floats -= block.capacity;
        if block.in_arena {
            state.arena_live -= block.capacity;
            let arena = state.arena.as_mut().expect("it gave the block");
            return arena.give(block.ptr, block.capacity);
        }
        state.idle_floats += block.capacity;
        state.idle.entry(block.capacity).or_default().push(block);
    }
}

impl std::ops::Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        let block = self.block.as_ref().expect("present until dropped");
        // SAFETY: the block holds at least `len` initialised floats and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(block.ptr.as_ptr(), self.len) }
    }
}

impl std::ops::DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let block = self.block.as_ref().expect("present until dropped");
        // SAFETY: as above, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(block.ptr.as_ptr(), self.len) }
    }
}

//! After the first training step the system is not asked for anything large.

mod model;

use herd_tensor::{Attention, AttentionShape, Grads, RopeTable, Segments, pool};
use model::{Sizes, model};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests of at least this many bytes count as large.
const LARGE: usize = 16 << 10;
static LARGE_REQUESTS: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn count(bytes: usize) {
    if bytes >= LARGE {
        LARGE_REQUESTS.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn after_the_first_step_nothing_large_is_allocated() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 32 };
    let sizes = Sizes { vocabulary: 3000, d: 128, f: 256, layers: 3 };
    let (model, params) = model(&sizes, shape.packed_width(), 128);
    let n = 512;
    let call = Attention {
        shape,
        segments: Arc::new(Segments::documents(&[200, 312])),
        rope: Some(RopeTable::new(32, 500_000.0, None, n).at(&(0..n as u32).collect::<Vec<_>>())),
    };
    let tokens: Vec<u32> = (0..=n as u32).map(|i| i * 7 % 3000).collect();
    let mut grads = Grads::new(&params);
    for (count, recompute) in [(1, false), (1, true), (3, false), (3, true)] {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap();
        threads.install(|| model.step(&params, &mut grads, &tokens, &call, recompute));
        let (before, usage) = (LARGE_REQUESTS.load(Ordering::SeqCst), pool::usage());
        // How many tasks run at once differs from step to step.
        for _ in 0..if count == 1 { 1 } else { 20 } {
            threads.install(|| model.step(&params, &mut grads, &tokens, &call, recompute));
        }
        let large = LARGE_REQUESTS.load(Ordering::SeqCst) - before;
        assert_eq!(large, 0, "large requests after the first step, {count} threads, recompute {recompute}");
        let after = pool::usage();
        assert_eq!(after.system_requests, usage.system_requests);
        assert_eq!(after.live, usage.live, "a step leaves nothing in use");
    }
    assert!(LARGE_REQUESTS.load(Ordering::SeqCst) > 0, "the counter counts");
}

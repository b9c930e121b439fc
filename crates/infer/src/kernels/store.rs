//! Where the panels of a quantised matrix are: in the file, row by row, or packed in memory.
//!
//! Finding and clearing the memory takes longer than a short prompt. So a model answers as soon as its file is open: a
//! panel that is not packed yet is packed aside, in the processor's cache, each time it is needed. What is computed for
//! many rows at once packs its matrices on the way; the others follow after the first pass (see
//! [`crate::weights::Weights::before_pass`]), or when nothing else is to be done.

use memmap2::{MmapMut, MmapRaw};
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

/// Rows of activations from which packing a matrix for good costs less than the product with it.
const MANY_ROWS: usize = 64;
/// Bytes that one thread packs at a time.
const PIECE: usize = 256 << 10;

/// Makes the panels of a matrix.
pub(crate) trait PanelSource: Send + Sync {
    /// Fills one panel.
    fn fill(&self, panel: usize, out: &mut [u8]);
    /// All panels are packed: what they are made of will not be read again soon.
    fn forget(&self);
}

/// Memory for all packed matrices of a model; the system finds it when it is first written to.
pub(crate) struct Arena {
    map: MmapRaw,
    /// Matrices that are not packed.
    left: AtomicUsize,
}

impl Arena {
    /// Room for `bytes`.
    pub(crate) fn new(bytes: usize) -> std::io::Result<Self> {
        Ok(Self { map: MmapMut::map_anon(bytes.max(1))?.into(), left: AtomicUsize::new(0) })
    }

    /// Bytes of all matrices.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Matrices that are not packed.
    pub(crate) fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}

/// A cache line, where panels begin.
#[derive(Clone)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "reached through pointers")] [u8; 64]);

thread_local! {
    /// Where this thread packs panels aside.
    static ASIDE: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

const LOOSE: u8 = 0;
const BEING_PACKED: u8 = 1;
const PACKED: u8 = 2;

/// The panels of one matrix.
pub(crate) struct Store {
    source: Box<dyn PanelSource>,
    arena: Arc<Arena>,
    /// Where its panels stand in the arena.
    at: usize,
    panels: usize,
    panel_bytes: usize,
    state: AtomicU8,
}

/// How a parallel region gets at the panels of a matrix.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Access {
    /// They are in the arena.
    Packed,
    /// This region, and no other, puts every one of them there.
    Packing,
    /// They are packed aside.
    Aside,
}

impl Store {
    /// `panels` panels of `panel_bytes` that will stand at byte `at` of the arena, `None` if that is no place for them.
    pub(crate) fn new(
        source: Box<dyn PanelSource>,
        arena: &Arc<Arena>,
        at: usize,
        (panels, panel_bytes): (usize, usize),
    ) -> Option<Self> {
        let end = panels.checked_mul(panel_bytes).and_then(|bytes| at.checked_add(bytes))?;
        if end > arena.len() || !at.is_multiple_of(64) {
            return None;
        }
        arena.left.fetch_add(1, Ordering::Relaxed);
        let state = AtomicU8::new(LOOSE);
        Some(Self { source, arena: arena.clone(), at, panels, panel_bytes, state })
    }

    pub(super) fn is_packed(&self) -> bool {
        self.state.load(Ordering::Acquire) == PACKED
    }

    /// How a product with `rows` rows of activations gets at the panels; [`Store::end`] follows, unless it is one row.
    pub(super) fn begin(&self, rows: usize) -> Access {
        match self.is_packed() {
            true => Access::Packed,
            false if rows >= MANY_ROWS => self.begin_packing(),
            false => Access::Aside,
        }
    }

    fn begin_packing(&self) -> Access {
        match self.state.compare_exchange(LOOSE, BEING_PACKED, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Access::Packing,
            Err(PACKED) => Access::Packed,
            // By another thread.
            Err(_) => Access::Aside,
        }
    }

    /// The parallel region is over and has asked for every panel.
    pub(super) fn end(&self, access: Access) {
        if access != Access::Packing {
            return;
        }
        self.state.store(PACKED, Ordering::Release);
        self.source.forget();
        if self.arena.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Fewer misses of the address cache, as the system finds time to gather pages. Asked for before the pages are
            // filled, it would have to clear huge ones first, for which a model waits up to four times as long in a
            // virtual machine whose memory is fresh.
            #[cfg(target_os = "linux")]
            let _ = self.arena.map.advise(memmap2::Advice::HugePage);
        }
    }

    /// Calls `work` with the first of some panels, which lie one after the other.
    pub(super) fn with_panels<R>(
        &self,
        access: Access,
        panels: Range<usize>,
        work: impl FnOnce(*const u8) -> R,
    ) -> R {
        assert!(panels.start <= panels.end && panels.end <= self.panels, "panels of a matrix");
        let length = panels.len() * self.panel_bytes;
        match access {
            Access::Packed => work(self.place(panels.start)),
            Access::Packing => {
                let place = self.place(panels.start);
                // SAFETY: these panels lie in the arena, where no other matrix has a place. `Packing` is given to one
                // region only, whose units have different panels, and nobody reads them before it has ended.
                self.fill(panels, unsafe { std::slice::from_raw_parts_mut(place, length) });
                work(place)
            }
            Access::Aside => ASIDE.with_borrow_mut(|lines| {
                lines.resize(lines.len().max(length.div_ceil(64)), Line([0; 64]));
                let aside = lines.as_mut_ptr().cast::<u8>();
                // SAFETY: lines are bytes without gaps, and there are enough of them.
                self.fill(panels, unsafe { std::slice::from_raw_parts_mut(aside, length) });
                work(aside)
            }),
        }
    }

    /// Some panels, if they are packed.
    pub(super) fn packed(&self, panels: Range<usize>) -> Option<&[u8]> {
        let (start, end) = (panels.start.min(self.panels), panels.end.min(self.panels));
        // SAFETY: they lie in the arena, and what is packed does not change.
        self.is_packed().then(|| unsafe {
            std::slice::from_raw_parts(self.place(start), (end - start) * self.panel_bytes)
        })
    }

    fn fill(&self, panels: Range<usize>, out: &mut [u8]) {
        for (panel, out) in panels.zip(out.chunks_exact_mut(self.panel_bytes)) {
            self.source.fill(panel, out);
        }
    }

    fn place(&self, panel: usize) -> *mut u8 {
        self.arena.map.as_mut_ptr().wrapping_add(self.at + panel * self.panel_bytes)
    }

    /// Packs all panels if they are not; how many bytes that were.
    pub(super) fn pack(&self, team: &crate::team::Team) -> usize {
        let access = self.begin_packing();
        if access != Access::Packing {
            return 0;
        }
        let each = (PIECE / self.panel_bytes).max(1);
        team.run(self.panels.div_ceil(each), |unit| {
            let panels = unit * each..((unit + 1) * each).min(self.panels);
            self.with_panels(access, panels, |_| ());
        });
        self.end(access);
        self.panels * self.panel_bytes
    }
}

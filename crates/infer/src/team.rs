//! A few threads that work on one forward pass together.
//!
//! A decoding step of a small model is some 150 parallel regions in 5 milliseconds. Waking threads for each of them
//! would take as long as the work, so the workers of a team wait for the next region in a loop and go to sleep only
//! when none comes for a while. A region is a number of units; who is free takes the next one. A worker that the
//! system has put aside is not waited for unless it has begun a unit.

use crate::prefetch::{LINE, fetch_bytes};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};

/// Rounds that a worker waits before it sleeps: some 100 microseconds.
const PATIENCE: u32 = 2_000;
/// Rounds that the caller waits for begun units before it lets others run on its processor.
const POLITE: u32 = 10_000;

/// Floats that are worth a unit of work when little is done with each.
const ROW_FLOATS: usize = 4096;

/// What the units of a region do.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// State word: number of the region, whether it may be joined, and how many workers have joined it.
const OPEN: u64 = 1 << 15;
const JOINED: u64 = OPEN - 1;
const REGION: u64 = OPEN << 1;

struct Shared {
    state: AtomicU64,
    /// Only read by a worker that has joined the open region, which the caller does not leave before it is done.
    work: UnsafeCell<Option<(*const Work<'static>, usize)>>,
    next: AtomicUsize,
    done: AtomicU64,
    failed: AtomicBool,
    stop: AtomicBool,
    /// Memory that the next regions will read, and how many bytes of it; a worker with nothing to do fetches it.
    soon: AtomicPtr<u8>,
    soon_bytes: AtomicUsize,
    asleep: Box<[AtomicBool]>,
}

// SAFETY: `work` is written by the caller only while the region is closed and nobody has joined it.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

/// The caller and its workers, who are started when they are first needed.
pub(crate) struct Team {
    threads: usize,
    shared: Arc<Shared>,
    workers: OnceLock<Vec<(JoinHandle<()>, Thread)>>,
    /// A region is running; one that is begun inside it, or by another thread, is done by who begins it alone.
    busy: AtomicBool,
}

impl Team {
    /// A team of `threads`, the caller among them.
    pub(crate) fn new(threads: usize) -> Self {
        let threads = threads.clamp(1, JOINED as usize);
        let asleep = (1..threads).map(|_| AtomicBool::new(false)).collect();
        let shared = Shared {
            state: AtomicU64::new(0),
            work: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            soon: AtomicPtr::new(std::ptr::null_mut()),
            soon_bytes: AtomicUsize::new(0),
            asleep,
        };
        Self { threads, shared: Arc::new(shared), workers: OnceLock::new(), busy: AtomicBool::new(false) }
    }

    /// A team as large as the current rayon pool.
    pub(crate) fn of_pool() -> Self {
        Self::new(rayon::current_num_threads())
    }

    fn workers(&self) -> &[(JoinHandle<()>, Thread)] {
        self.workers.get_or_init(|| {
            let start = |index| {
                let shared = self.shared.clone();
                let builder = std::thread::Builder::new().name(format!("herd-team-{}", index + 1));
                // A machine that has no thread left works with those that it has.
                let handle = builder.spawn(move || shared.serve(index)).ok()?;
                let thread = handle.thread().clone();
                Some((handle, thread))
            };
            (0..self.threads - 1).map_while(start).collect()
        })
    }

    /// Calls `work(0)`, …, `work(units - 1)`, each once, in any order on any thread.
    pub(crate) fn run(&self, units: usize, work: impl Fn(usize) + Sync) {
        let alone = units <= 1 || self.threads == 1 || self.busy.swap(true, Ordering::Acquire);
        if alone {
            (0..units).for_each(work);
            return;
        }
        let workers = self.workers();
        let shared = &*self.shared;
        let work: &Work<'_> = &work;
        shared.next.store(0, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        // SAFETY: the region is closed, so no worker reads; the borrow outlives the region because this function
        // does not return before all who joined are done.
        unsafe {
            let work = std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work);
            *shared.work.get() = Some((work, units));
        }
        let region = (shared.state.load(Ordering::Relaxed) & !(OPEN | JOINED)).wrapping_add(REGION);
        shared.state.store(region | OPEN, Ordering::SeqCst);
        for ((_, thread), asleep) in workers.iter().zip(&shared.asleep) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let mine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.take_units(work, units)));
        let joined = shared.state.fetch_and(!OPEN, Ordering::SeqCst) & JOINED;
        let mut rounds = 0;
        while shared.done.load(Ordering::Acquire) != joined {
            rounds += 1;
            if rounds > POLITE { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        self.busy.store(false, Ordering::Release);
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!shared.failed.swap(false, Ordering::Relaxed), "a worker of the team panicked");
    }
}

impl Team {
    /// How many work together.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Says what the next region will read, so that a worker can fetch it while it waits.
    pub(crate) fn soon(&self, memory: &[u8]) {
        if self.threads > 1 {
            self.shared.soon_bytes.store(memory.len(), Ordering::Relaxed);
            self.shared.soon.store(memory.as_ptr().cast_mut(), Ordering::Release);
        }
    }

    /// Calls `work` for each of `rows` rows whose cost is like reading `columns` floats; few rows are not shared.
    pub(crate) fn rows(&self, rows: usize, columns: usize, work: impl Fn(usize) + Sync) {
        let each = (ROW_FLOATS / columns.max(1)).max(1);
        self.run(rows.div_ceil(each), |unit| (unit * each..((unit + 1) * each).min(rows)).for_each(&work));
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (handle, thread) in self.workers.take().unwrap_or_default() {
            thread.unpark();
            // A panic in a unit was reported where it happened.
            let _ = handle.join();
        }
    }
}

impl Shared {
    fn take_units(&self, work: &Work<'_>, units: usize) {
        loop {
            let unit = self.next.fetch_add(1, Ordering::Relaxed);
            if unit >= units {
                return;
            }
            work(unit);
        }
    }

    /// Brings what will be read into this processor's cache, as long as there is no region to join.
    fn fetch_soon(&self, state: u64) {
        if self.soon.load(Ordering::Relaxed).is_null() {
            return;
        }
        let from = self.soon.swap(std::ptr::null_mut(), Ordering::Acquire);
        let bytes = if from.is_null() { 0 } else { self.soon_bytes.load(Ordering::Relaxed) };
        for at in (0..bytes).step_by(8 * LINE) {
            if self.state.load(Ordering::Relaxed) != state {
                return;
            }
            fetch_bytes(from.wrapping_add(at), 8 * LINE);
        }
    }

    /// A worker's life.
    fn serve(&self, index: usize) {
        let mut last = 0;
        let mut rounds = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let state = self.state.load(Ordering::Acquire);
            if state & OPEN != 0 && state & !(OPEN | JOINED) != last {
                if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    last = state & !(OPEN | JOINED);
                    // SAFETY: joined, so the caller has written this and stays until `done` is counted up.
                    if let Some((work, units)) = unsafe { *self.work.get() } {
                        let units =
                            std::panic::AssertUnwindSafe(|| self.take_units(unsafe { &*work }, units));
                        if std::panic::catch_unwind(units).is_err() {
                            self.failed.store(true, Ordering::Relaxed);
                        }
                    }
                    self.done.fetch_add(1, Ordering::Release);
                    rounds = 0;
                }
                continue;
            }
            self.fetch_soon(state);
            rounds += 1;
            if rounds < PATIENCE {
                std::hint::spin_loop();
                continue;
            }
            self.asleep[index].store(true, Ordering::SeqCst);
            let state = self.state.load(Ordering::SeqCst);
            let news = state & OPEN != 0 && state & !(OPEN | JOINED) != last;
            if !news && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.asleep[index].store(false, Ordering::SeqCst);
            rounds = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_done_once_and_before_the_region_ends() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            for units in (0..200).chain([10_000]) {
                let counts: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
                team.run(units, |unit| {
                    counts[unit].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if units % 50 == 0 {
                    // Long enough for the workers to fall asleep.
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn what_is_said_to_come_soon_delays_nothing() {
        let team = Team::new(2);
        let memory = vec![1u8; 1 << 20];
        let count = AtomicUsize::new(0);
        for round in 0..200 {
            // Also a little, nothing, and what is gone when it is asked for.
            team.soon(&memory[..[1 << 20, 65, 0][round % 3]]);
            team.soon(&vec![0u8; 4096]);
            team.run(round % 5, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.into_inner(), 400);
    }

    #[test]
    fn a_region_inside_a_region_is_done_by_its_caller() {
        let team = Team::new(3);
        let count = AtomicUsize::new(0);
        team.run(10, |_| {
            team.run(10, |_| {
                count.fetch_add(1, Ordering::Relaxed);
            })
        });
        assert_eq!(count.into_inner(), 100);
    }

    #[test]
    fn a_panic_comes_out_and_the_team_works_on() {
        let team = Team::new(2);
        for bad in [0, 30, 63] {
            let run = || team.run(64, |unit| assert_ne!(unit, bad));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        }
        let count = AtomicUsize::new(0);
        team.run(10, |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}

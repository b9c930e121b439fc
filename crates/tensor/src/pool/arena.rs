//! One stretch of addresses for large buffers, each at the lowest place where it fits.
//!
//! What is given back joins its neighbours, so any later request can use it, whatever its size. Places depend on the
//! sequence of requests alone: a step that begins with the same buffers in use as the one before it gets the same places,
//! and never needs more.

use std::collections::BTreeMap;
use std::ptr::NonNull;

/// Places are multiples of this many floats: a page.
const GRAIN: usize = 1024;

/// Which stretches of an endless row are taken, in floats (on a card: in units of 512 bytes).
#[derive(Default)]
pub(crate) struct Places {
    /// Begin and length of the free stretches below `top`; no two touch each other.
    free: BTreeMap<usize, usize>,
    /// Where the part that was ever taken ends.
    top: usize,
}

impl Places {
    /// The lowest place for `len`, which must not end beyond `most`; and whether `top` had to rise.
    pub fn take(&mut self, len: usize, most: usize) -> Option<(usize, bool)> {
        if let Some((&start, &free)) = self.free.iter().find(|(_, free)| **free >= len) {
            self.free.remove(&start);
            if free > len {
                self.free.insert(start + len, free - len);
            }
            return Some((start, false));
        }
        let last = self.free.last_key_value().map(|(start, free)| (*start, start + free));
        let start = last.filter(|(_, end)| *end == self.top).map_or(self.top, |(start, _)| start);
        if len > most.saturating_sub(start) {
            return None;
        }
        self.free.remove(&start);
        self.top = start + len;
        Some((start, true))
    }

    /// Takes back a place with its length.
    pub fn give(&mut self, mut start: usize, mut len: usize) {
        if let Some(after) = self.free.remove(&(start + len)) {
            len += after;
        }
        if let Some((&before, &free)) = self.free.range(..start).next_back()
            && before + free == start
        {
            (start, len) = (before, free + len);
        }
        self.free.insert(start, len);
    }
}

/// The stretch itself: addresses that become memory where they are first touched.
pub(super) struct Arena {
    base: NonNull<f32>,
    /// Floats that there are addresses for.
    reserved: usize,
    places: Places,
}

// SAFETY: uniquely owned memory; what is handed out is disjoint.
unsafe impl Send for Arena {}

impl Arena {
    /// Reserves as many addresses as the machine has memory; `None` where the system refuses.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub fn reserve() -> Option<Self> {
        const HUGE_PAGE: usize = 2 << 20;
        // SAFETY: questions to the system.
        let (pages, page) =
            unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        let bytes = usize::try_from(pages).ok()?.checked_mul(usize::try_from(page).ok()?)?;
        if page as usize != GRAIN * size_of::<f32>() {
            return None;
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new private mapping, of zeros; it is never unmapped.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes + HUGE_PAGE, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let base = start.wrapping_byte_add(start.align_offset(HUGE_PAGE));
        // SAFETY: advice on the mapping just made; failure is harmless.
        unsafe { libc::madvise(base, bytes, libc::MADV_HUGEPAGE) };
        let base = NonNull::new(base.cast())?;
        Some(Self { base, reserved: bytes / size_of::<f32>(), places: Places::default() })
    }

    /// Only Linux is known to give addresses without memory.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    pub fn reserve() -> Option<Self> {
        None
    }

    /// Room for `len` floats: where, how many they are rounded up, and whether more was taken than ever before.
    /// Initialised, as the system's pages are zeros. `None` if the addresses are used up.
    pub fn take(&mut self, len: usize) -> Option<(NonNull<f32>, usize, bool)> {
        let len = len.next_multiple_of(GRAIN);
        let (start, rose) = self.places.take(len, self.reserved)?;
        // SAFETY: within the reserved addresses.
        Some((unsafe { self.base.add(start) }, len, rose))
    }

    /// Takes back what [`Arena::take`] gave, with its rounded length.
    pub fn give(&mut self, at: NonNull<f32>, len: usize) {
        // SAFETY: both are within the one mapping (the caller's promise).
        let start = unsafe { at.offset_from_unsigned(self.base) };
        self.places.give(start, len);
    }

    /// Floats below the highest place ever taken: memory that the process has.
    pub fn held(&self) -> usize {
        self.places.top
    }

    /// Gives the memory of all free places back to the system.
    pub fn trim(&mut self) {
        #[cfg(target_os = "linux")]
        for (&start, &len) in &self.places.free {
            // SAFETY: whole pages that nobody uses; they read as zeros from now on.
            unsafe {
                let at = self.base.add(start).as_ptr();
                libc::madvise(at.cast(), len * size_of::<f32>(), libc::MADV_DONTNEED);
            }
        }
        if let Some((start, len)) = self.places.free.pop_last() {
            match start + len == self.places.top {
                true => self.places.top = start,
                false => _ = self.places.free.insert(start, len),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CounterRng;

    /// Takes and gives by chance, checking that nothing overlaps; returns all places and the top.
    fn run(places: &mut Places, seed: u64) -> (Vec<usize>, usize) {
        let rng = CounterRng::new(seed, "places");
        let (mut taken, mut all) = (Vec::<(usize, usize)>::new(), Vec::new());
        for i in 0..400 {
            if rng.bits(3 * i) % 5 < 2 && !taken.is_empty() {
                let (start, len) = taken.swap_remove(rng.bits(3 * i + 1) as usize % taken.len());
                places.give(start, len);
            } else {
                let len = 1 + rng.bits(3 * i + 1) as usize % 50;
                let (start, _) = places.take(len, usize::MAX).unwrap();
                let apart = |&(other, size): &(usize, usize)| start + len <= other || other + size <= start;
                assert!(taken.iter().all(apart), "{start} + {len} among {taken:?}");
                taken.push((start, len));
                all.push(start);
            }
        }
        taken.into_iter().for_each(|(start, len)| places.give(start, len));
        (all, places.top)
    }

    #[test]
    fn equal_requests_get_equal_places_and_what_is_given_back_joins() {
        for seed in 0..20 {
            let mut places = Places::default();
            let first = run(&mut places, seed);
            assert_eq!(places.free.iter().collect::<Vec<_>>(), [(&0, &first.1)], "one free stretch");
            assert_eq!(run(&mut places, seed), first, "the second time");
        }
    }

    #[test]
    fn the_end_of_the_addresses_is_noticed() {
        let mut places = Places::default();
        assert_eq!(places.take(60, 100), Some((0, true)));
        assert_eq!(places.take(60, 100), None);
        assert_eq!(places.take(40, 100), Some((60, true)));
        places.give(0, 60);
        assert_eq!(places.take(50, 100), Some((0, false)));
        places.give(60, 40);
        assert_eq!(places.take(45, 100), Some((50, false)), "what was free beside it is used too");
    }
}

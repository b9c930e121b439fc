//! Tables that are read at random, on large pages where the system has them: with small ones the processor would have to
//! look up where a page lies nearly as often as what is on it.

use bytemuck::Zeroable;
use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Large pages begin at multiples of this, bytes.
const PAGE: usize = 2 << 20;

/// A table of a fixed length.
pub(crate) struct LargePages<T> {
    map: MmapMut,
    /// Where the table begins in the map, bytes.
    begin: usize,
    length: usize,
    of: PhantomData<T>,
}

impl<T: Zeroable + Copy> LargePages<T> {
    /// All zero. Panics if there is no memory.
    pub(crate) fn zeroed(length: usize) -> Self {
        const { assert!(align_of::<T>() <= 4096, "a map begins with a page") };
        let bytes = (length * size_of::<T>()).max(1);
        let slack = if bytes < PAGE { 0 } else { PAGE };
        let map = MmapMut::map_anon(bytes + slack)
            .unwrap_or_else(|error| panic!("no memory for {bytes} bytes: {error}"));
        #[cfg(target_os = "linux")]
        if slack > 0 {
            // Without them it only is slower.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let begin = if slack > 0 { (map.as_ptr() as usize).wrapping_neg() % PAGE } else { 0 };
        Self { map, begin, length, of: PhantomData }
    }
}

impl<T> Deref for LargePages<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the map has room for as many values from there on, aligned to a page; they were zeros at first, and what
        // was written later is of the type.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.begin).cast(), self.length) }
    }
}

impl<T> DerefMut for LargePages<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the map is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.begin).cast(), self.length) }
    }
}

//! Memory on large pages where the system has them. In tables that are read at random the processor would otherwise look
//! up where a page lies nearly as often as what is on it; of long lists the system would hand out each small page alone.

use bytemuck::Zeroable;
use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Large pages begin at multiples of this, bytes.
const PAGE: usize = 2 << 20;

/// Lists of so many bytes are put on large pages: in a virtual machine a fresh one can cost more than the small ones of a
/// short list.
const LONG_LIST: usize = 16 * PAGE;

/// An empty list with room for so many values.
pub(crate) fn list_with_room<T>(length: usize) -> Vec<T> {
    let mut list = Vec::with_capacity(length);
    #[cfg(target_os = "linux")]
    {
        let room = list.spare_capacity_mut();
        let bytes = size_of_val(room);
        let before = (room.as_ptr() as usize).wrapping_neg() % PAGE;
        let whole = bytes.saturating_sub(before) / PAGE * PAGE;
        if whole >= LONG_LIST {
            // SAFETY: the range lies within the list, and what memory holds does not change. Without large pages it only
            // is slower.
            unsafe { libc::madvise(room.as_mut_ptr().byte_add(before).cast(), whole, libc::MADV_HUGEPAGE) };
        }
    }
    list
}

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

//! Large flat buffers of zeros that become memory only where they are written.
//!
//! The gradient of an embedding table and its moments in the optimizer are zero for every token that was never met:
//! those pages are never made. What is written as a whole asks for huge pages, since matrix products touch many rows
//! at once and would wait for address translation with small ones.

use bytemuck::Pod;
use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::Range;

const HUGE_PAGE: usize = 2 << 20;

/// An owned run of numbers that starts as zeros, from the system and not from the pool.
pub struct Flat<T = f32> {
    map: MmapMut,
    /// Bytes before the first value: huge pages begin at multiples of their size.
    offset: usize,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Flat<T> {
    /// `len` zeros; memory is taken page by page, at the first write. Panics if the system refuses the addresses.
    pub fn sparse(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let slack = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let map = MmapMut::map_anon((bytes + slack).max(1))
            .unwrap_or_else(|error| panic!("no memory for a buffer of {bytes} bytes: {error}"));
        let offset = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE) };
        Self { map, offset, len, values: PhantomData }
    }

    /// `len` zeros that will all be written.
    pub fn dense(len: usize) -> Self {
        let flat = Self::sparse(len);
        flat.expect_writes(0..len);
        flat
    }

    /// Says that all values of a range are going to be written: its untouched pages may be huge ones.
    pub fn expect_writes(&self, range: Range<usize>) {
        let whole = (range.start * size_of::<T>()).next_multiple_of(HUGE_PAGE)
            ..range.end * size_of::<T>() / HUGE_PAGE * HUGE_PAGE;
        #[cfg(target_os = "linux")]
        if !whole.is_empty() {
            // Advice: a kernel that cannot follow it loses speed, nothing else.
            let _ = self.map.advise_range(memmap2::Advice::HugePage, self.offset + whole.start, whole.len());
        }
        #[cfg(not(target_os = "linux"))]
        drop(whole);
    }
}

impl<T: Pod> std::ops::Deref for Flat<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[self.offset..self.offset + self.len * size_of::<T>()])
    }
}

impl<T: Pod> std::ops::DerefMut for Flat<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let end = self.offset + self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[self.offset..end])
    }
}

impl<T: Pod> Clone for Flat<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::dense(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

//! Memory that is asked for before it is read.
//!
//! One row of activations is multiplied faster than weights come from memory, so answers are as fast as memory is kept
//! busy. The processor itself asks ahead only within a page of 4 KiB, and not at all while threads wait for each other.

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Asks for the cache line of an address that will be read soon, wherever it is: a hint that never fails. It goes to the
/// second-level cache: what comes a few kilobytes early would drive out of the first what is in use.
#[inline(always)]
pub(crate) fn fetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has SSE, and a prefetch of any address is allowed.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

/// As [`fetch`] for all lines of some bytes that begin at a line.
#[inline(always)]
pub(crate) fn fetch_bytes(from: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(LINE) {
        fetch(from.wrapping_add(at));
    }
}

//! Whole numbers beside [`Lanes`]: sixteen `i32` sums that 64 small weights are multiplied into at once.
//!
//! The 64 bytes of one step are 16 rows of a weight matrix times 4 columns, row by row. All forms give the same
//! numbers, because sums of whole numbers are exact.

use super::lanes::{LANES, Lanes, Portable};

/// Bytes of one step: [`LANES`] rows of four columns.
pub(crate) const STEP: usize = 4 * LANES;

/// The integer half of an instruction set. `unsafe` for the reasons that [`Lanes`] gives.
pub(crate) trait Ints: Lanes {
    /// Sixteen sums.
    type Sums: Copy;
    /// 64 unsigned bytes.
    type Bytes: Copy;
    /// Whether weights of 8 bits are multiplied as signed numbers; else as `weight + 128`, and the bias of 128 is
    /// taken off the sums.
    const SIGNED_8: bool;

    /// All sums `value`.
    unsafe fn sums(value: i32) -> Self::Sums;
    /// `sums[i] += bytes[4i..4i+4] . x` for bytes of at most 6 bits and four signed numbers `x` above -128.
    unsafe fn dot(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums;
    /// As [`Ints::dot`] for bytes of 8 bits, see [`Ints::SIGNED_8`].
    unsafe fn dot8(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums;
    /// The sums as floats (exact below 2^24).
    unsafe fn float(sums: Self::Sums) -> Self;

    /// Reads 64 bytes.
    unsafe fn bytes(from: *const u8) -> Self::Bytes;
    /// `(bytes >> by) & mask` in every byte, for a mask of no more than `8 - by` bits.
    unsafe fn right(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes;
    /// `(bytes << by) & mask` in every byte, for a mask without the lowest `by` bits.
    unsafe fn left(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes;
    /// Bits of either.
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;

    /// Sixteen half-precision floats.
    unsafe fn load_f16(from: *const u16) -> Self;
    /// Sixteen bfloat16.
    unsafe fn load_bf16(from: *const u16) -> Self;
    /// The second bfloat16 of each of sixteen pairs.
    unsafe fn load_odd(from: *const u16) -> Self;
    /// The first of each pair.
    unsafe fn load_even(from: *const u16) -> Self;
    /// Sixteen signed bytes as floats.
    unsafe fn load_i8(from: *const i8) -> Self;
    /// Sixteen whole numbers within -128..=127 as bytes.
    unsafe fn store_i8(self, to: *mut i8);
    /// Absolute values.
    unsafe fn abs(self) -> Self;
}

#[inline(always)]
fn floats(f: impl FnMut(usize) -> f32) -> Portable {
    Portable(std::array::from_fn(f))
}

// SAFETY of the accesses below: the caller gives pointers to as many elements as the trait says.
impl Ints for Portable {
    type Sums = [i32; LANES];
    type Bytes = [u8; STEP];
    const SIGNED_8: bool = false;

    #[inline(always)]
    unsafe fn sums(value: i32) -> Self::Sums {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn dot(mut sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        let x = x.to_le_bytes().map(|b| i32::from(b as i8));
        for (sum, w) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *sum += (0..4).map(|i| i32::from(w[i]) * x[i]).sum::<i32>();
        }
        sums
    }
    #[inline(always)]
    unsafe fn dot8(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        unsafe { Self::dot(sums, bytes, x) }
    }
    #[inline(always)]
    unsafe fn float(sums: Self::Sums) -> Self {
        floats(|i| sums[i] as f32)
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Bytes {
        unsafe { from.cast::<Self::Bytes>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn right(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        bytes.map(|b| b >> by & mask)
    }
    #[inline(always)]
    unsafe fn left(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        bytes.map(|b| b << by & mask)
    }
    #[inline(always)]
    unsafe fn or(mut a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        a.iter_mut().zip(b).for_each(|(a, b)| *a |= b);
        a
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        let all = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        floats(|i| half::f16::from_bits(all[i]).to_f32())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        let all = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        floats(|i| f32::from_bits(u32::from(all[i]) << 16))
    }
    #[inline(always)]
    unsafe fn load_odd(from: *const u16) -> Self {
        let all = unsafe { from.cast::<[u16; 2 * LANES]>().read_unaligned() };
        floats(|i| f32::from_bits(u32::from(all[2 * i + 1]) << 16))
    }
    #[inline(always)]
    unsafe fn load_even(from: *const u16) -> Self {
        let all = unsafe { from.cast::<[u16; 2 * LANES]>().read_unaligned() };
        floats(|i| f32::from_bits(u32::from(all[2 * i]) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        let all = unsafe { from.cast::<[i8; LANES]>().read_unaligned() };
        floats(|i| f32::from(all[i]))
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        let all = self.0.map(|x| x as i8);
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(all) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        Portable(self.0.map(f32::abs))
    }
}

//! The form in which quantised weights are kept: any of ggml's block formats, laid out for dot products of bytes.
//!
//! A matrix [rows, columns] is cut into panels of 16 rows. A panel holds first the small numbers of its weights, then
//! their scales. In both, 32 columns form a block:
//!
//! - *numbers*: eight steps of 16 rows x 4 columns (64 bytes each if a number had 8 bits). Narrower numbers are cut
//!   into planes of 4, 2 and 1 bits; steps share the bytes of a plane: a plane of 4 bits has 4 x 64 bytes, step `j`
//!   in the low half of part `j % 4` if `j < 4`, else in the high half.
//! - *scales*: of 16 rows side by side. Either a half-precision scale (and minimum) per block, or, for the K formats,
//!   a half-precision scale (and minimum) per 8 blocks and a whole factor of 8 bits per 16 or 32 columns.
//!
//! So a load brings the same columns of 16 rows, which one VNNI instruction multiplies with 4 activations, and no sum
//! over lanes is ever needed. A number takes as many bits as in the file (the scales of K formats a little more).

use super::lanes::LANES;
use crate::gguf::BlockType;

/// Columns that share one scale of the activations.
pub(crate) const BLOCK: usize = 32;
/// Blocks that share a half-precision scale in the K formats.
pub(super) const SUPER: usize = 8;

/// What the kernels know of a format when they are compiled. Weight = `scale * (number - bias) + min`.
pub(super) trait Format {
    /// Bits of a number.
    const BITS: usize;
    /// Scales have two levels.
    const TWO_LEVELS: bool;
    /// Scales per block: one, or two of 16 columns each.
    const SCALES: usize;
    /// Has minima.
    const MIN: bool;
    /// The bias is 2 to this power, unless there are minima.
    const BIAS_POWER: u32;
    /// Bytes of a block of a panel, numbers and scales, on average.
    const BYTES: usize = {
        let kinds = 1 + Self::MIN as usize;
        let scales = if Self::TWO_LEVELS { 2 * LANES / SUPER + LANES * Self::SCALES } else { 2 * LANES };
        Self::BITS * BLOCK * LANES / 8 + kinds * scales
    };
}

macro_rules! formats {
    ($($name:ident: $bits:literal, $two_levels:literal, $scales:literal, $min:literal, $bias_power:literal;)*) => {
        $(pub(super) struct $name;
        impl Format for $name {
            const BITS: usize = $bits;
            const TWO_LEVELS: bool = $two_levels;
            const SCALES: usize = $scales;
            const MIN: bool = $min;
            const BIAS_POWER: u32 = $bias_power;
        })*

        impl Shape {
            /// How a quantised format is laid out, `None` for plain floats.
            pub(crate) fn of(kind: BlockType) -> Option<Shape> {
                Some(match kind {
                    $(BlockType::$name => Shape {
                        bits: $bits,
                        two_levels: $two_levels,
                        scales: $scales,
                        min: $min,
                        bias: if $min { 0 } else { 1 << $bias_power },
                    },)*
                    _ => return None,
                })
            }
        }
    };
}

formats! {
    Q4_0: 4, false, 1, false, 3;
    Q4_1: 4, false, 1, true, 0;
    Q5_0: 5, false, 1, false, 4;
    Q5_1: 5, false, 1, true, 0;
    Q8_0: 8, false, 1, false, 7;
    Q2K: 2, true, 2, true, 0;
    Q3K: 3, true, 2, false, 2;
    Q4K: 4, true, 1, true, 0;
    Q5K: 5, true, 1, true, 0;
    Q6K: 6, true, 2, false, 5;
}

/// Calls a generic function with the [`Format`] of a [`BlockType`] in place of `_`.
macro_rules! with_format {
    ($kind:expr, $call:ident::<$L:ty, _>($($arg:expr),*)) => {{
        use $crate::kernels::planes;
        match $kind {
            BlockType::Q4_0 => $call::<$L, planes::Q4_0>($($arg),*),
            BlockType::Q4_1 => $call::<$L, planes::Q4_1>($($arg),*),
            BlockType::Q5_0 => $call::<$L, planes::Q5_0>($($arg),*),
            BlockType::Q5_1 => $call::<$L, planes::Q5_1>($($arg),*),
            BlockType::Q8_0 => $call::<$L, planes::Q8_0>($($arg),*),
            BlockType::Q2K => $call::<$L, planes::Q2K>($($arg),*),
            BlockType::Q3K => $call::<$L, planes::Q3K>($($arg),*),
            BlockType::Q4K => $call::<$L, planes::Q4K>($($arg),*),
            BlockType::Q5K => $call::<$L, planes::Q5K>($($arg),*),
            BlockType::Q6K => $call::<$L, planes::Q6K>($($arg),*),
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => {}
        }
    }};
}
pub(super) use with_format;

/// [`Format`] at run time, with the sizes that follow from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub bits: usize,
    pub two_levels: bool,
    /// Scales per block.
    pub scales: usize,
    pub min: bool,
    pub bias: u8,
}

impl Shape {
    /// Bytes of the numbers of one block.
    pub(crate) const fn numbers(self) -> usize {
        self.bits * BLOCK * LANES / 8
    }
    /// Half-precision bytes at the head of a scale record.
    pub(crate) const fn scale_head(self) -> usize {
        2 * LANES * (1 + self.min as usize)
    }
    /// Bytes of whole factors per block.
    pub(crate) const fn scale_factors(self) -> usize {
        if self.two_levels { LANES * self.scales * (1 + self.min as usize) } else { 0 }
    }
    /// Blocks of one scale record.
    pub(crate) const fn record_blocks(self) -> usize {
        if self.two_levels { SUPER } else { 1 }
    }
    /// Bytes of one scale record.
    pub(crate) const fn record(self) -> usize {
        self.scale_head() + self.record_blocks() * self.scale_factors()
    }
    /// Bytes of one panel of `blocks` blocks, whole cache lines.
    pub(crate) const fn panel(self, blocks: usize) -> usize {
        blocks * self.numbers() + (blocks / self.record_blocks() * self.record()).next_multiple_of(64)
    }
    /// Bytes of a matrix.
    pub(crate) const fn matrix(self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(LANES) * self.panel(columns / BLOCK)
    }

    /// Puts the numbers of 16 rows into the planes of a block: for each row the four bytes that it has of each of the
    /// `bits` parts, in their order.
    #[inline(always)]
    pub(crate) fn put_words(self, words: &[[u32; 8]; LANES], block: &mut [u8]) {
        let parts = block[..self.numbers()].as_chunks_mut::<{ 4 * LANES }>().0;
        for (parts, first) in parts.chunks_mut(4).zip([0, 4]) {
            turn(words, first, parts);
        }
    }

    /// The numbers of one row of a block, what [`Shape::put_words`] was given.
    pub(crate) fn numbers_of(self, block: &[u8], lane: usize) -> [u8; BLOCK] {
        std::array::from_fn(|column| {
            let (j, i) = (column / 4, column % 4);
            let byte = |part: usize| block[part * 64 + lane * 4 + i];
            if self.bits == 8 {
                return byte(j);
            }
            let (mut q, mut part, mut bits) = (0, 0, 0);
            if self.bits & 4 != 0 {
                q = byte(j % 4) >> (j / 4 * 4) & 15;
                (part, bits) = (4, 4);
            }
            if self.bits & 2 != 0 {
                q |= (byte(part + j / 4) >> (j % 4 * 2) & 3) << bits;
                (part, bits) = (part + 2, bits + 2);
            }
            if self.bits & 1 != 0 {
                q |= (byte(part) >> j & 1) << bits;
            }
            q
        })
    }

    /// Scale and minimum of half `half` of block `block` of a row, from the scales of its panel.
    pub(crate) fn scale_of(self, scales: &[u8], block: usize, half: usize, lane: usize) -> (f32, f32) {
        let record = &scales[block / self.record_blocks() * self.record()..][..self.record()];
        let float =
            |at: usize| half::f16::from_le_bytes([record[at + lane * 2], record[at + lane * 2 + 1]]).to_f32();
        let (mut scale, mut min) = (float(0), if self.min { float(2 * LANES) } else { 0.0 });
        if self.two_levels {
            let at =
                self.scale_head() + block % SUPER * self.scale_factors() + half.min(self.scales - 1) * LANES;
            let factor = |at: usize| f32::from(record[at + lane] as i8);
            scale *= factor(at);
            if self.min {
                min *= factor(at + self.scales * LANES);
            }
        }
        (scale, min)
    }
}

/// Words `first..` of all rows, side by side for each word: up to four of them.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn turn(words: &[[u32; 8]; LANES], first: usize, parts: &mut [[u8; 4 * LANES]]) {
    for (part, place) in parts.iter_mut().zip(first..) {
        for (out, words) in part.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *out = words[place].to_le_bytes();
        }
    }
}

/// Words `first..` of all rows, side by side for each word: up to four of them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn turn(words: &[[u32; 8]; LANES], first: usize, parts: &mut [[u8; 4 * LANES]]) {
    use std::arch::x86_64::*;
    for (i, rows) in words.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: every x86-64 processor has SSE2; each load is of half a row, each store of a quarter of a part.
        unsafe {
            let [a, b, c, d] =
                rows.each_ref().map(|row| _mm_loadu_si128(row[first..first + 4].as_ptr().cast()));
            let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
            let columns = [
                _mm_unpacklo_epi64(ab, cd),
                _mm_unpackhi_epi64(ab, cd),
                _mm_unpacklo_epi64(ab_high, cd_high),
                _mm_unpackhi_epi64(ab_high, cd_high),
            ];
            for (part, column) in parts.iter_mut().zip(columns) {
                _mm_storeu_si128(part[i * 16..i * 16 + 16].as_mut_ptr().cast(), column);
            }
        }
    }
}

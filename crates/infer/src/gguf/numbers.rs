//! Quantised blocks taken apart: the whole numbers of 32 weights, and their scales as the file holds them.
//!
//! [`super::blocks`] says what the floats are; this is the same without the arithmetic.

use super::blocks::{BlockType, scale_min, u32_at};
use half::f16;

/// 32 weights of a row.
pub(super) struct Numbers<'a> {
    kind: BlockType,
    /// The block of the file that holds them.
    block: &'a [u8],
    /// Which 32 of its 256 weights (0 in blocks of 32).
    sub: usize,
}

/// The half-precision scale and minimum of a block; the minimum is added.
pub(super) struct Level {
    pub scale: f16,
    pub min: f16,
}

impl<'a> Numbers<'a> {
    /// Weights `32 b..32 b + 32` of a row.
    pub(super) fn of(kind: BlockType, row: &'a [u8], b: usize) -> Self {
        let (weights, size) = kind.block();
        let blocks = weights / 32;
        Self { kind, block: &row[b / blocks * size..][..size], sub: b % blocks }
    }

    /// Numbers `i` and `i + 16` in the low and high half of byte `i`, where the file has them so and 4 bits are all.
    #[inline]
    pub(super) fn pairs(&self) -> Option<&'a [u8; 16]> {
        match self.kind {
            BlockType::Q4_0 => self.block[2..].first_chunk(),
            BlockType::Q4_1 => self.block[4..].first_chunk(),
            _ => None,
        }
    }

    /// The numbers, from 0; what is subtracted from them is [`crate::kernels::planes::Shape::bias`].
    pub(super) fn numbers(&self) -> [u8; 32] {
        let (b, sub) = (self.block, self.sub);
        let (part, row) = (sub / 4, sub as u32 % 4);
        match self.kind {
            BlockType::Q4_0 => nibbles(&b[2..18], 0),
            BlockType::Q4_1 => nibbles(&b[4..20], 0),
            BlockType::Q5_0 => nibbles(&b[6..22], u32_at(b, 2)),
            BlockType::Q5_1 => nibbles(&b[8..24], u32_at(b, 4)),
            BlockType::Q8_0 => of_32(&b[2..34], |_, q| q ^ 128),
            BlockType::Q2K => of_32(&b[16 + part * 32..], |_, q| q >> (2 * row) & 3),
            BlockType::Q3K => {
                let mask = &b[..32];
                of_32(&b[32 + part * 32..], |i, q| q >> (2 * row) & 3 | (mask[i] >> sub & 1) << 2)
            }
            BlockType::Q4K => of_32(&b[16 + sub / 2 * 32..], |_, q| q >> (sub % 2 * 4) & 15),
            BlockType::Q5K => {
                let fifth = &b[16..48];
                of_32(&b[48 + sub / 2 * 32..], |i, q| q >> (sub % 2 * 4) & 15 | (fifth[i] >> sub & 1) << 4)
            }
            BlockType::Q6K => {
                let high = &b[128 + part * 32..160 + part * 32];
                of_32(&b[part * 64 + row as usize % 2 * 32..], |i, q| {
                    q >> (row / 2 * 4) & 15 | (high[i] >> (2 * row) & 3) << 4
                })
            }
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => [0; 32],
        }
    }

    /// Scale and minimum of the whole block of the file.
    pub(super) fn level(&self) -> Level {
        let at = |at: usize| f16::from_le_bytes([self.block[at], self.block[at + 1]]);
        let (scale, min) = match self.kind {
            BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => (at(0), f16::ZERO),
            BlockType::Q4_1 | BlockType::Q5_1 => (at(0), at(2)),
            BlockType::Q2K => (at(80), -at(82)),
            BlockType::Q3K => (at(108), f16::ZERO),
            BlockType::Q4K | BlockType::Q5K => (at(0), -at(2)),
            BlockType::Q6K => (at(208), f16::ZERO),
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => (f16::ZERO, f16::ZERO),
        };
        Level { scale, min }
    }

    /// Whole factors of scale and minimum, for the first and the second 16 weights (K formats only).
    pub(super) fn factors(&self, half: usize) -> (i8, i8) {
        let (b, group) = (self.block, 2 * self.sub + half);
        match self.kind {
            BlockType::Q2K => ((b[group] & 15) as i8, (b[group] >> 4) as i8),
            BlockType::Q3K => {
                let scales = &b[96..108];
                let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
                let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
                ((low | high << 4) as i8 - 32, 0)
            }
            BlockType::Q4K | BlockType::Q5K => {
                let (scale, min) = scale_min(&b[4..16], self.sub);
                (scale as i8, min as i8)
            }
            BlockType::Q6K => (b[192 + group] as i8, 0),
            _ => (0, 0),
        }
    }
}

/// `f(i, bytes[i])` for 32 bytes.
#[inline(always)]
fn of_32(bytes: &[u8], f: impl Fn(usize, u8) -> u8) -> [u8; 32] {
    let mut out = [0; 32];
    for (i, (out, &byte)) in out.iter_mut().zip(&bytes[..32]).enumerate() {
        *out = f(i, byte);
    }
    out
}

/// Low nibbles, then high nibbles; bit i of `fifth` is worth 16 in weight i.
#[inline(always)]
fn nibbles(qs: &[u8], fifth: u32) -> [u8; 32] {
    let mut out = [0; 32];
    let (low, high) = out.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(&qs[..16]) {
        (*low, *high) = (q & 15, q >> 4);
    }
    if fifth != 0 {
        for (i, out) in out.iter_mut().enumerate() {
            *out |= ((fifth >> i & 1) as u8) << 4;
        }
    }
    out
}

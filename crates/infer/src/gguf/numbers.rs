//! Quantised blocks taken apart: the whole numbers of 32 weights, and their scales as the file holds them.
//!
//! [`super::blocks`] says what the floats are; this is the same without the arithmetic.

use super::blocks::{BlockType, scale_min, u32_at};
use half::f16;

/// The four bytes that weights `32 sub..32 sub + 32` of a block of the file have of each part of
/// [`crate::kernels::planes`]: column `4 j + i` stands in byte `i`. Numbers count from 0; what is subtracted from them
/// is [`crate::kernels::planes::Shape::bias`].
#[inline(always)]
pub(super) fn words(kind: BlockType, b: &[u8], sub: usize) -> [u32; 8] {
    let (part, row) = (sub / 4, sub % 4);
    match kind {
        // The file has numbers `i` and `i + 16` in one byte, as the planes do.
        BlockType::Q4_0 => joined(four(&b[2..]), [0; 4]),
        BlockType::Q4_1 => joined(four(&b[4..]), [0; 4]),
        BlockType::Q5_0 => joined(four(&b[6..]), [fifth_bits(&b[2..6]), 0, 0, 0]),
        BlockType::Q5_1 => joined(four(&b[8..]), [fifth_bits(&b[4..8]), 0, 0, 0]),
        BlockType::Q8_0 => eight(&b[2..]).map(|word| word ^ 0x8080_8080),
        BlockType::Q2K => {
            let [a, b] = pairs_of_bits(&b[16 + part * 32..], 2 * row);
            [a, b, 0, 0, 0, 0, 0, 0]
        }
        BlockType::Q3K => {
            let [a, c] = pairs_of_bits(&b[32 + part * 32..], 2 * row);
            [a, c, single_bits(&b[..32], sub), 0, 0, 0, 0, 0]
        }
        BlockType::Q4K => joined(nibbles(&b[16 + sub / 2 * 32..], sub % 2), [0; 4]),
        BlockType::Q5K => {
            joined(nibbles(&b[48 + sub / 2 * 32..], sub % 2), [single_bits(&b[16..48], sub), 0, 0, 0])
        }
        BlockType::Q6K => {
            let [a, c] = pairs_of_bits(&b[128 + part * 32..], 2 * row);
            joined(nibbles(&b[part * 64 + row % 2 * 32..], row / 2), [a, c, 0, 0])
        }
        BlockType::F32 | BlockType::F16 | BlockType::Bf16 => [0; 8],
    }
}

/// Scale and minimum of a block of the file, in half precision; the minimum is added.
#[inline(always)]
pub(super) fn level(kind: BlockType, b: &[u8]) -> (f16, f16) {
    let at = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]);
    match kind {
        BlockType::Q4_0 | BlockType::Q5_0 | BlockType::Q8_0 => (at(0), f16::ZERO),
        BlockType::Q4_1 | BlockType::Q5_1 => (at(0), at(2)),
        BlockType::Q2K => (at(80), -at(82)),
        BlockType::Q3K => (at(108), f16::ZERO),
        BlockType::Q4K | BlockType::Q5K => (at(0), -at(2)),
        BlockType::Q6K => (at(208), f16::ZERO),
        BlockType::F32 | BlockType::F16 | BlockType::Bf16 => (f16::ZERO, f16::ZERO),
    }
}

/// Whole factors of scale and minimum of weights `16 group..16 group + 16` of a block (K formats only).
#[inline(always)]
pub(super) fn factors(kind: BlockType, b: &[u8], group: usize) -> (i8, i8) {
    match kind {
        BlockType::Q2K => ((b[group] & 15) as i8, (b[group] >> 4) as i8),
        BlockType::Q3K => {
            let scales = &b[96..108];
            let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
            let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
            ((low | high << 4) as i8 - 32, 0)
        }
        BlockType::Q4K | BlockType::Q5K => {
            let (scale, min) = scale_min(&b[4..16], group / 2);
            (scale as i8, min as i8)
        }
        BlockType::Q6K => (b[192 + group] as i8, 0),
        _ => (0, 0),
    }
}

#[inline(always)]
fn joined([a, b, c, d]: [u32; 4], [e, f, g, h]: [u32; 4]) -> [u32; 8] {
    [a, b, c, d, e, f, g, h]
}

#[inline(always)]
fn four(b: &[u8]) -> [u32; 4] {
    let b = &b[..16];
    [u32_at(b, 0), u32_at(b, 4), u32_at(b, 8), u32_at(b, 12)]
}

#[inline(always)]
fn eight(b: &[u8]) -> [u32; 8] {
    joined(four(b), four(&b[16..]))
}

/// The low (`high` 0) or high (1) nibbles of 32 bytes, numbers `i` and `i + 16` in one byte.
#[inline(always)]
fn nibbles(b: &[u8], high: usize) -> [u32; 4] {
    let (mut first, second) = (four(b), four(&b[16..]));
    for (first, second) in first.iter_mut().zip(second) {
        *first = match high {
            0 => *first & 0x0f0f_0f0f | (second & 0x0f0f_0f0f) << 4,
            _ => *first >> 4 & 0x0f0f_0f0f | second & 0xf0f0_f0f0,
        };
    }
    first
}

/// Bits `shift` and `shift + 1` of 32 bytes, those of columns `i`, `i + 4`, `i + 8` and `i + 12` in one byte.
#[inline(always)]
fn pairs_of_bits(b: &[u8], shift: usize) -> [u32; 2] {
    let of = |words: [u32; 4]| {
        let [a, b, c, d] = words.map(|word| word >> shift & 0x0303_0303);
        a | b << 2 | c << 4 | d << 6
    };
    [of(four(b)), of(four(&b[16..]))]
}

/// Bit `shift` of 32 bytes, those of columns `i`, `i + 4`, …, `i + 28` in one byte.
#[inline(always)]
fn single_bits(b: &[u8], shift: usize) -> u32 {
    let mut all = 0;
    for (j, word) in eight(b).into_iter().enumerate() {
        all |= (word >> shift & 0x0101_0101) << j;
    }
    all
}

/// Bit `n` of four bytes belongs to column `n`; see [`single_bits`].
#[inline(always)]
fn fifth_bits(bits: &[u8]) -> u32 {
    SPREAD[usize::from(bits[0])]
        | SPREAD[usize::from(bits[1])] << 2
        | SPREAD[usize::from(bits[2])] << 4
        | SPREAD[usize::from(bits[3])] << 6
}

/// Bits `i` and `i + 4` of a byte in the two lowest bits of byte `i`.
const SPREAD: [u32; 256] = {
    let mut spread = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut i = 0;
        while i < 4 {
            spread[byte] |= ((byte >> i & 1 | (byte >> (i + 4) & 1) << 1) as u32) << (8 * i);
            i += 1;
        }
        byte += 1;
    }
    spread
};

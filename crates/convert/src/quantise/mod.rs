//! From floats to ggml's block formats. `herd_infer::gguf` has the way back and the layout of the blocks.
//!
//! The formats of 32 weights take scale and minimum from the extremes; those of 256 search for the scale with the
//! least error, as llama.cpp's reference does.

mod k;

use half::{bf16, f16};
use herd_infer::gguf::BlockType;
use rayon::prelude::*;

/// Whether floats can be written in a format.
pub fn is_written(kind: BlockType) -> bool {
    !matches!(kind, BlockType::Q2K | BlockType::Q3K | BlockType::Q5K)
}

/// Writes rows of whole blocks. `out` has the size of the blocks; finite numbers only.
///
/// A format of which [`is_written`] says no leaves `out` as it is.
pub fn quantise(kind: BlockType, numbers: &[f32], out: &mut [u8]) {
    let (weights, size) = kind.block();
    // Plain numbers are blocks of one: some thousand at once.
    let blocks = if weights == 1 { 4096 } else { 16 };
    numbers.par_chunks(weights * blocks).zip(out.par_chunks_mut(size * blocks)).for_each(|(x, out)| {
        for (x, b) in x.chunks_exact(weights).zip(out.chunks_exact_mut(size)) {
            block(kind, x, b);
        }
    });
}

fn block(kind: BlockType, x: &[f32], b: &mut [u8]) {
    match kind {
        BlockType::F32 => b.copy_from_slice(&x[0].to_le_bytes()),
        BlockType::F16 => b.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
        BlockType::Bf16 => b.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
        BlockType::Q8_0 => q8_0(x, b),
        BlockType::Q4_0 => {
            let q = centred(x, 8, b);
            nibbles(&q, &mut b[2..]);
        }
        BlockType::Q5_0 => {
            let q = centred(x, 16, b);
            fifth_bits(&q, &mut b[2..6]);
            nibbles(&q, &mut b[6..]);
        }
        BlockType::Q4_1 => {
            let q = from_minimum(x, 15, b);
            nibbles(&q, &mut b[4..]);
        }
        BlockType::Q5_1 => {
            let q = from_minimum(x, 31, b);
            fifth_bits(&q, &mut b[4..8]);
            nibbles(&q, &mut b[8..]);
        }
        BlockType::Q4K => k::q4_k(x, b),
        BlockType::Q6K => k::q6_k(x, b),
        BlockType::Q2K | BlockType::Q3K | BlockType::Q5K => {}
    }
}

fn put_half(b: &mut [u8], at: usize, x: f32) {
    b[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
}

fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// 32 whole numbers from -127 to 127 and the largest magnitude over 127.
fn q8_0(x: &[f32], b: &mut [u8]) {
    let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    let d = largest / 127.0;
    let id = inverse(d);
    put_half(b, 0, d);
    for (q, x) in b[2..].iter_mut().zip(x) {
        *q = (x * id).round() as i8 as u8;
    }
}

/// Numbers from 0 to `2 zero - 1` around `zero`: the number of largest magnitude becomes 0, so that no step is lost.
fn centred(x: &[f32], zero: i32, b: &mut [u8]) -> [u8; 32] {
    let extreme = x.iter().fold(0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
    let d = extreme / -zero as f32;
    let id = inverse(d);
    put_half(b, 0, d);
    let highest = (2 * zero - 1) as f32;
    std::array::from_fn(|i| (x[i] * id + zero as f32 + 0.5).clamp(0.0, highest) as u8)
}

/// Numbers from 0 to `highest` above the minimum.
fn from_minimum(x: &[f32], highest: u8, b: &mut [u8]) -> [u8; 32] {
    let (low, high) = x.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let d = (high - low) / f32::from(highest);
    let id = inverse(d);
    put_half(b, 0, d);
    put_half(b, 2, low);
    std::array::from_fn(|i| ((x[i] - low) * id + 0.5).clamp(0.0, f32::from(highest)) as u8)
}

/// Weight i in the low half of byte i, weight i + 16 in the high half.
fn nibbles(q: &[u8; 32], out: &mut [u8]) {
    for (i, out) in out[..16].iter_mut().enumerate() {
        *out = q[i] & 15 | q[i + 16] << 4;
    }
}

fn fifth_bits(q: &[u8; 32], out: &mut [u8]) {
    let bits = q.iter().enumerate().fold(0u32, |bits, (i, &q)| bits | u32::from(q >> 4 & 1) << i);
    out.copy_from_slice(&bits.to_le_bytes());
}

//! ggml's block formats as floats. A block holds 32 or 256 weights in a few bits each, with shared scales.

use half::{bf16, f16};

/// A format of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockType {
    /// 32-bit floats.
    F32,
    /// Half-precision floats.
    F16,
    /// Brain floats.
    Bf16,
    /// 32 weights of 4 bits with a scale.
    Q4_0,
    /// 32 weights of 4 bits with a scale and a minimum.
    Q4_1,
    /// 32 weights of 5 bits with a scale.
    Q5_0,
    /// 32 weights of 5 bits with a scale and a minimum.
    Q5_1,
    /// 32 weights of 8 bits with a scale.
    Q8_0,
    /// 256 weights of 2 bits.
    Q2K,
    /// 256 weights of 3 bits.
    Q3K,
    /// 256 weights of 4 bits.
    Q4K,
    /// 256 weights of 5 bits.
    Q5K,
    /// 256 weights of 6 bits.
    Q6K,
}

/// ggml's number and name of each.
const NAMES: [(BlockType, u32, &str); 13] = [
    (BlockType::F32, 0, "F32"),
    (BlockType::F16, 1, "F16"),
    (BlockType::Q4_0, 2, "Q4_0"),
    (BlockType::Q4_1, 3, "Q4_1"),
    (BlockType::Q5_0, 6, "Q5_0"),
    (BlockType::Q5_1, 7, "Q5_1"),
    (BlockType::Q8_0, 8, "Q8_0"),
    (BlockType::Q2K, 10, "Q2_K"),
    (BlockType::Q3K, 11, "Q3_K"),
    (BlockType::Q4K, 12, "Q4_K"),
    (BlockType::Q5K, 13, "Q5_K"),
    (BlockType::Q6K, 14, "Q6_K"),
    (BlockType::Bf16, 30, "BF16"),
];

impl BlockType {
    /// By ggml's number.
    pub fn of(kind: u32) -> Option<Self> {
        NAMES.iter().find(|(_, number, _)| *number == kind).map(|(kind, ..)| *kind)
    }

    /// ggml's number.
    pub fn number(self) -> u32 {
        NAMES.iter().find(|(kind, ..)| *kind == self).map_or(0, |(_, number, _)| *number)
    }

    /// ggml's name, such as `Q4_K`.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, _, name)| *name)
    }

    /// Weights and bytes of one block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Writes the weights of whole blocks.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        let (weights, size) = self.block();
        for (b, y) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(weights)) {
            match self {
                Self::F32 => y[0] = f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
                Self::F16 => y[0] = half_at(b, 0),
                Self::Bf16 => y[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32(),
                Self::Q4_0 => nibbles(&b[2..], half_at(b, 0), -8.0 * half_at(b, 0), 0, y),
                Self::Q4_1 => nibbles(&b[4..], half_at(b, 0), half_at(b, 2), 0, y),
                Self::Q5_0 => nibbles(&b[6..], half_at(b, 0), -16.0 * half_at(b, 0), u32_at(b, 2), y),
                Self::Q5_1 => nibbles(&b[8..], half_at(b, 0), half_at(b, 2), u32_at(b, 4), y),
                Self::Q8_0 => {
                    let d = half_at(b, 0);
                    y.iter_mut().zip(&b[2..]).for_each(|(y, &q)| *y = d * f32::from(q as i8));
                }
                Self::Q2K => q2k(b, y),
                Self::Q3K => q3k(b, y),
                Self::Q4K => q45k(b, &b[16..], None, y),
                Self::Q5K => q45k(b, &b[48..], Some(&b[16..48]), y),
                Self::Q6K => q6k(b, y),
            }
        }
    }
}

fn half_at(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

pub(super) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// 32 weights `q d + m`: low nibbles, then high nibbles; bit i of `fifth` is worth 16 in weight i.
fn nibbles(qs: &[u8], d: f32, m: f32, fifth: u32, y: &mut [f32]) {
    for i in 0..32 {
        let q = if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 };
        let q = u32::from(q) | (fifth >> i & 1) << 4;
        y[i] = q as f32 * d + m;
    }
}

/// 16 groups of 16 weights `q d s - dmin m` with q of 2 bits, s and m of 4 bits.
fn q2k(b: &[u8], y: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, dmin) = (half_at(b, 80), half_at(b, 82));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let (part, within) = (group / 8, group % 8);
        let shift = within / 2 * 2;
        let q = &qs[part * 32 + within % 2 * 16..][..16];
        let (scale, min) = (d * f32::from(scales[group] & 15), dmin * f32::from(scales[group] >> 4));
        y.iter_mut().zip(q).for_each(|(y, q)| *y = scale * f32::from(q >> shift & 3) - min);
    }
}

/// 16 groups of 16 weights `q d s` with q of 3 bits (the highest in a mask, inverted) and s of 6 bits.
fn q3k(b: &[u8], y: &mut [f32]) {
    let (mask, qs, scales, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        let (part, within) = (group / 8, group % 8);
        let (bit, half) = (within / 2, within % 2 * 16);
        let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * (i32::from(low | high << 4) - 32) as f32;
        for (i, y) in y.iter_mut().enumerate() {
            let q = i32::from(qs[part * 32 + half + i] >> (2 * bit) & 3);
            let above = mask[half + i] >> (part * 4 + bit) & 1 == 1;
            *y = scale * (q - if above { 0 } else { 4 }) as f32;
        }
    }
}

/// Scale and minimum, of 6 bits each, of group `j` of 8.
pub(super) fn scale_min(scales: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (scales[j] & 63, scales[j + 4] & 63)
    } else {
        let (low, high_scale, high_min) = (scales[j + 4], scales[j - 4] >> 6, scales[j] >> 6);
        (low & 15 | high_scale << 4, low >> 4 | high_min << 4)
    }
}

/// 8 groups of 32 weights `q d s - dmin m` with q of 4 bits, or 5 with the highest in `fifth`.
fn q45k(b: &[u8], qs: &[u8], fifth: Option<&[u8]>, y: &mut [f32]) {
    let (d, dmin) = (half_at(b, 0), half_at(b, 2));
    for (group, y) in y.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_min(&b[4..16], group);
        let (scale, min) = (d * f32::from(scale), dmin * f32::from(min));
        for (i, y) in y.iter_mut().enumerate() {
            let byte = qs[group / 2 * 32 + i];
            let low = if group % 2 == 0 { byte & 15 } else { byte >> 4 };
            let high = fifth.map_or(0, |f| f[i] >> group & 1);
            *y = scale * f32::from(low | high << 4) - min;
        }
    }
}

/// 16 groups of 16 weights `q d s` with q of 6 bits and s of 8 bits.
fn q6k(b: &[u8], y: &mut [f32]) {
    let (ql, qh, scales, d) = (&b[..128], &b[128..192], &b[192..208], half_at(b, 208));
    for (group, y) in y.chunks_exact_mut(16).enumerate() {
        // 128 weights in four rows of 32: two in low nibbles, two in high nibbles.
        let (part, row, half) = (group / 8, group % 8 / 2, group % 2 * 16);
        let scale = d * f32::from(scales[group] as i8);
        for (i, y) in y.iter_mut().enumerate() {
            let byte = ql[part * 64 + row % 2 * 32 + half + i];
            let low = if row < 2 { byte & 15 } else { byte >> 4 };
            let high = qh[part * 32 + half + i] >> (2 * row) & 3;
            *y = scale * (i32::from(low | high << 4) - 32) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file has for every type: its number, blocks of random bytes, and the floats that the `gguf` Python
    /// package makes of them (see `tests/golden/make_blocks.py`).
    #[test]
    fn all_types_give_the_floats_of_the_reference() {
        let mut rest = include_bytes!("../../tests/golden/blocks.bin").as_slice();
        let mut types = 0;
        while !rest.is_empty() {
            let (header, body) = rest.split_at(12);
            let [kind, bytes, count] = [0, 4, 8].map(|at| u32_at(header, at) as usize);
            let (blocks, after) = body.split_at(bytes);
            let (expected, after) = after.split_at(count * 4);
            rest = after;
            let block_type = BlockType::of(kind as u32).unwrap();
            let mut found = vec![0.0; count];
            block_type.dequantise(blocks, &mut found);
            for (i, (found, expected)) in found.iter().zip(expected.chunks_exact(4)).enumerate() {
                let expected = f32::from_le_bytes([expected[0], expected[1], expected[2], expected[3]]);
                let off = (found - expected).abs();
                assert!(
                    off <= 1e-6 * expected.abs().max(1.0),
                    "{block_type:?} weight {i}: {found} {expected}"
                );
            }
            types += 1;
        }
        assert_eq!(types, 13);
    }
}

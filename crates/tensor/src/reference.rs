//! Every operator once more in plain f64: no blocks, no threads, no fusion. For anyone to read, and for the tests: the
//! fast operators are compared with these, and their gradients with finite differences of these.
//!
//! Matrices are row-major slices; `n` is always the number of rows.

use crate::{AttentionShape, Segments};

/// `y[i] = w[ids[i]]`, `w [vocabulary, d]`.
pub fn embedding(w: &[f64], d: usize, ids: &[u32]) -> Vec<f64> {
    ids.iter().flat_map(|&id| w[id as usize * d..(id as usize + 1) * d].iter().copied()).collect()
}

/// `y = x w^T`, `x [n, inputs]`, `w [outputs, inputs]`.
pub fn linear(x: &[f64], w: &[f64], inputs: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks(inputs) {
        for w in w.chunks(inputs) {
            y.push(x.iter().zip(w).map(|(x, w)| x * w).sum());
        }
    }
    y
}

/// `y = x / sqrt(mean(x^2) + eps) * w` for every row of `w.len()` values.
pub fn rms_norm(x: &[f64], w: &[f64], eps: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for x in x.chunks(w.len()) {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / w.len() as f64;
        y.extend(x.iter().zip(w).map(|(x, w)| x / (mean_square + eps).sqrt() * w));
    }
    y
}

/// Rotates every head of every row: values `j` and `j + head_dim / 2` by `positions[row] * theta^(-2 j / head_dim)`.
pub fn rope(x: &[f64], width: usize, head_dim: usize, theta: f64, positions: &[u32]) -> Vec<f64> {
    let mut y = x.to_vec();
    for (row, &position) in y.chunks_mut(width).zip(positions) {
        for head in row.chunks_mut(head_dim) {
            for j in 0..head_dim / 2 {
                let angle = f64::from(position) * theta.powf(-2.0 * j as f64 / head_dim as f64);
                let (a, b) = (head[j], head[j + head_dim / 2]);
                head[j] = a * angle.cos() - b * angle.sin();
                head[j + head_dim / 2] = b * angle.cos() + a * angle.sin();
            }
        }
    }
    y
}

/// `softmax` of one row.
pub fn softmax(z: &[f64]) -> Vec<f64> {
    let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.iter().map(|z| (z - max).exp()).sum();
    z.iter().map(|z| (z - max).exp() / sum).collect()
}

/// Attention of packed rows `[q heads | k heads | v heads]`; q and k are rotated already.
pub fn attention(qkv: &[f64], shape: &AttentionShape, segments: &Segments) -> Vec<f64> {
    let (heads, kv_heads, hd) = (shape.heads, shape.kv_heads, shape.head_dim);
    let width = shape.packed_width();
    let q = |row: usize, head: usize| &qkv[row * width + head * hd..][..hd];
    let k = |row: usize, kv: usize| &qkv[row * width + (heads + kv) * hd..][..hd];
    let v = |row: usize, kv: usize| &qkv[row * width + (heads + kv_heads + kv) * hd..][..hd];
    let mut out = vec![0.0; segments.rows() * heads * hd];
    for segment in segments.list() {
        for row in segment.rows.clone() {
            let seen: Vec<usize> = segment.prefix.clone().chain(segment.rows.start..=row).collect();
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let dot =
                    |key: usize| -> f64 { q(row, head).iter().zip(k(key, kv)).map(|(a, b)| a * b).sum() };
                let scores: Vec<f64> = seen.iter().map(|key| dot(*key) / (hd as f64).sqrt()).collect();
                let out = &mut out[(row * heads + head) * hd..][..hd];
                for (p, key) in softmax(&scores).iter().zip(&seen) {
                    for (out, v) in out.iter_mut().zip(v(*key, kv)) {
                        *out += p * v;
                    }
                }
            }
        }
    }
    out
}

/// Rotates only the q and k heads of packed rows.
pub fn rope_packed(qkv: &[f64], shape: &AttentionShape, theta: f64, positions: &[u32]) -> Vec<f64> {
    let (width, hd) = (shape.packed_width(), shape.head_dim);
    let rotated = rope(qkv, width, hd, theta, positions);
    let values_from = (shape.heads + shape.kv_heads) * hd;
    (0..qkv.len()).map(|i| if i % width < values_from { rotated[i] } else { qkv[i] }).collect()
}

/// `y = silu(gate) * up` for rows `[gate | up]` of `2 f` values.
pub fn swiglu(gate_up: &[f64], f: usize) -> Vec<f64> {
    let mut y = Vec::new();
    for row in gate_up.chunks(2 * f) {
        y.extend((0..f).map(|j| row[j] / (1.0 + (-row[j]).exp()) * row[f + j]));
    }
    y
}

/// `log softmax(x w^T)[i, targets[i]]` for every row; `x [n, d]`, `w [vocabulary, d]`.
pub fn token_logprobs(x: &[f64], w: &[f64], d: usize, targets: &[u32]) -> Vec<f64> {
    let logits = linear(x, w, d);
    logits.chunks(w.len() / d).zip(targets).map(|(z, &t)| softmax(z)[t as usize].ln()).collect()
}

/// `-sum_i weights[i] log softmax(x w^T)[i, targets[i]]`; rows of weight 0 are left out.
pub fn cross_entropy(x: &[f64], w: &[f64], d: usize, targets: &[u32], weights: &[f32]) -> f64 {
    let counted = |i: &usize| weights[*i] != 0.0;
    (0..targets.len())
        .filter(counted)
        .map(|i| -f64::from(weights[i]) * token_logprobs(&x[i * d..(i + 1) * d], w, d, &targets[i..i + 1])[0])
        .sum()
}

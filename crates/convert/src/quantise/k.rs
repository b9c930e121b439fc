//! The formats of 256 weights: small scales of groups, which share one half-precision scale.
//!
//! A scale is found by trying several and fitting each by weighted least squares: with the whole numbers `q` of a
//! trial fixed, the best scale (and minimum) is the solution of a linear problem of one (two) unknowns.

use super::{inverse, put_half};
use half::f16;

/// 8 groups of 32 weights `q d s - dmin m` with q of 4 bits, s and m of 6 bits.
pub(super) fn q4_k(x: &[f32], b: &mut [u8]) {
    let mut fits = [Fit::default(); 8];
    for (fit, x) in fits.iter_mut().zip(x.chunks_exact(32)) {
        *fit = fit_with_minimum(x, 15.0);
    }
    let largest = |of: fn(&Fit) -> f32| fits.iter().map(of).fold(0f32, f32::max);
    let (max_scale, max_depth) = (largest(|f| f.scale), largest(|f| f.depth));
    let six =
        |value: f32, largest: f32| (value * 63.0 * inverse(largest)).round_ties_even().clamp(0.0, 63.0) as u8;
    put_half(b, 0, max_scale / 63.0);
    put_half(b, 2, max_depth / 63.0);
    let d = f16::from_le_bytes([b[0], b[1]]).to_f32();
    let dmin = f16::from_le_bytes([b[2], b[3]]).to_f32();
    b[4..16].fill(0);
    let mut q = [0u8; 256];
    for (j, (fit, x)) in fits.iter().zip(x.chunks_exact(32)).enumerate() {
        let (scale, depth) = (six(fit.scale, max_scale), six(fit.depth, max_depth));
        // Scales and minima of 6 bits: the first four in the low bits, the others spread over what is left.
        if j < 4 {
            b[4 + j] |= scale;
            b[8 + j] |= depth;
        } else {
            b[8 + j] = scale & 15 | (depth & 15) << 4;
            b[j] |= scale >> 4 << 6;
            b[4 + j] |= depth >> 4 << 6;
        }
        let (step, low) = (d * f32::from(scale), dmin * f32::from(depth));
        if step != 0.0 {
            for (q, x) in q[32 * j..].iter_mut().zip(x) {
                *q = ((x + low) / step).round_ties_even().clamp(0.0, 15.0) as u8;
            }
        }
    }
    for (two, out) in q.chunks_exact(64).zip(b[16..].chunks_exact_mut(32)) {
        for (i, out) in out.iter_mut().enumerate() {
            *out = two[i] | two[32 + i] << 4;
        }
    }
}

/// 16 groups of 16 weights `q d s` with q of 6 bits and s of 8 bits.
pub(super) fn q6_k(x: &[f32], b: &mut [u8]) {
    let mut scales = [0f32; 16];
    for (scale, x) in scales.iter_mut().zip(x.chunks_exact(16)) {
        *scale = fit_centred(x, 32.0);
    }
    let extreme = scales.iter().fold(0f32, |m, &s| if s.abs() > m.abs() { s } else { m });
    b.fill(0);
    if extreme == 0.0 {
        return;
    }
    let to_whole = -128.0 / extreme;
    put_half(b, 208, 1.0 / to_whole);
    let d = f16::from_le_bytes([b[208], b[209]]).to_f32();
    let mut q = [32u8; 256];
    for (j, (scale, x)) in scales.iter().zip(x.chunks_exact(16)).enumerate() {
        let whole = (scale * to_whole).round_ties_even().clamp(-128.0, 127.0) as i8;
        b[192 + j] = whole as u8;
        let step = d * f32::from(whole);
        if step != 0.0 {
            for (q, x) in q[16 * j..].iter_mut().zip(x) {
                *q = ((x / step).round_ties_even().clamp(-32.0, 31.0) + 32.0) as u8;
            }
        }
    }
    for (part, q) in q.chunks_exact(128).enumerate() {
        for i in 0..32 {
            let row = |r: usize| q[32 * r + i];
            b[part * 64 + i] = row(0) & 15 | (row(2) & 15) << 4;
            b[part * 64 + 32 + i] = row(1) & 15 | (row(3) & 15) << 4;
            b[128 + part * 32 + i] = (0..4).fold(0, |bits, r| bits | row(r) >> 4 << (2 * r));
        }
    }
}

/// `x ~ q scale - depth` with whole q from 0.
#[derive(Debug, Clone, Copy, Default)]
struct Fit {
    scale: f32,
    /// Not negative.
    depth: f32,
}

/// The fit of least weighted squares over several trial steps. Large numbers weigh more: `|x|` above its root mean
/// square counts as they do in a product.
fn fit_with_minimum(x: &[f32], highest: f32) -> Fit {
    let (low, high) = x.iter().fold((0f32, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    if high <= low {
        return Fit { scale: 0.0, depth: -low };
    }
    let level = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    let weight = |x: f32| level + x.abs();
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for &x in x {
        sum_w += weight(x);
        sum_x += weight(x) * x;
    }
    let error = |step: f32, minimum: f32, per: f32| -> f32 {
        let one = |&x: &f32| {
            let q = (per * (x - low)).round_ties_even().clamp(0.0, highest);
            let off = step * q + minimum - x;
            weight(x) * off * off
        };
        x.iter().map(one).sum()
    };
    let plain = highest / (high - low);
    let mut best = (error(1.0 / plain, low, plain), Fit { scale: 1.0 / plain, depth: -low });
    for trial in 0..=20 {
        let per = (highest - 1.0 + 0.1 * trial as f32) / (high - low);
        let (mut sum_q, mut sum_qq, mut sum_xq) = (0.0, 0.0, 0.0);
        for &x in x {
            let q = (per * (x - low)).round_ties_even().clamp(0.0, highest);
            let w = weight(x);
            sum_q += w * q;
            sum_qq += w * q * q;
            sum_xq += w * x * q;
        }
        let determinant = sum_w * sum_qq - sum_q * sum_q;
        if determinant <= 0.0 {
            continue;
        }
        let mut step = (sum_w * sum_xq - sum_x * sum_q) / determinant;
        let mut minimum = (sum_qq * sum_x - sum_q * sum_xq) / determinant;
        // The format subtracts the minimum: it cannot be above zero.
        if minimum > 0.0 {
            (step, minimum) = (sum_xq / sum_qq, 0.0);
        }
        let found = error(step, minimum, per);
        if step > 0.0 && found < best.0 {
            best = (found, Fit { scale: step, depth: -minimum });
        }
    }
    best.1
}

/// The scale of `x ~ q scale` with whole q from `-half` to `half - 1`, with weights x^2: the fit that makes
/// `(sum w x q)^2 / sum w q^2` largest.
fn fit_centred(x: &[f32], half: f32) -> f32 {
    let extreme = x.iter().fold(0f32, |m, &x| if x.abs() > m.abs() { x } else { m });
    if extreme.abs() < 1e-15 {
        return 0.0;
    }
    let mut best = (0f32, 0f32);
    // The plain step first, then those around it.
    for trial in std::iter::once(0).chain((-9..=9).filter(|&t| t != 0)) {
        let per = -(half + 0.1 * trial as f32) / extreme;
        let (mut sum_xq, mut sum_qq) = (0.0, 0.0);
        for &x in x {
            let q = (per * x).round_ties_even().clamp(-half, half - 1.0);
            let w = x * x;
            sum_xq += w * x * q;
            sum_qq += w * q * q;
        }
        if sum_qq > 0.0 && sum_xq * sum_xq > best.0 * sum_qq {
            let scale = sum_xq / sum_qq;
            best = (scale * sum_xq, scale);
        }
    }
    best.1
}

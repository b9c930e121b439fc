//! Kernels that work row by row.

use super::elementary::{self, fma};
use crate::isa::by_isa;
use rayon::prelude::*;

/// Values per task when work is cut along rows.
const TASK_VALUES: usize = 32 * 1024;

/// Rows per task for rows of `width` values: fixed by the width alone.
pub(crate) fn task_rows(width: usize) -> usize {
    (TASK_VALUES / width.max(1)).max(1)
}

#[inline(always)]
fn dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    elementary::dot::<FMA>(a, b)
}
by_isa! {
    /// Dot product of two slices (of the shorter length).
    pub fn dot => dot_body(a: &[f32], b: &[f32]) -> f32
}

#[inline(always)]
fn add_assign_body<const FMA: bool>(out: &mut [f32], x: &[f32]) {
    for (o, x) in out.iter_mut().zip(x) {
        *o += x;
    }
}
by_isa! { fn add_assign_part => add_assign_body(out: &mut [f32], x: &[f32]) }

/// `out += x`, element by element.
pub fn add_assign(out: &mut [f32], x: &[f32]) {
    assert_eq!(out.len(), x.len(), "add_assign: {} and {} values", out.len(), x.len());
    out.par_chunks_mut(TASK_VALUES)
        .zip(x.par_chunks(TASK_VALUES))
        .for_each(|(out, x)| add_assign_part(out, x));
}

#[inline(always)]
fn add_body<const FMA: bool>(out: &mut [f32], a: &[f32], b: &[f32]) {
    for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
        *o = a + b;
    }
}
by_isa! { fn add_part => add_body(out: &mut [f32], a: &[f32], b: &[f32]) }

/// `out = a + b`.
pub(crate) fn add(out: &mut [f32], a: &[f32], b: &[f32]) {
    out.par_chunks_mut(TASK_VALUES)
        .zip(a.par_chunks(TASK_VALUES).zip(b.par_chunks(TASK_VALUES)))
        .for_each(|(out, (a, b))| add_part(out, a, b));
}

#[inline(always)]
fn scale_body<const FMA: bool>(out: &mut [f32], factor: f32) {
    for o in out.iter_mut() {
        *o *= factor;
    }
}
by_isa! { fn scale_part => scale_body(out: &mut [f32], factor: f32) }

/// `out *= factor`.
pub(crate) fn scale(out: &mut [f32], factor: f32) {
    out.par_chunks_mut(TASK_VALUES).for_each(|out| scale_part(out, factor));
}

#[inline(always)]
fn rms_norm_body<const FMA: bool>(x: &[f32], w: &[f32], eps: f32, out: &mut [f32], rstd: &mut [f32]) {
    let d = w.len();
    for ((x, out), rstd) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(rstd) {
        let r = 1.0 / (elementary::dot::<FMA>(x, x) / d as f32 + eps).sqrt();
        *rstd = r;
        for j in 0..d {
            out[j] = x[j] * r * w[j];
        }
    }
}
by_isa! {
    pub(crate) fn rms_norm_rows => rms_norm_body(x: &[f32], w: &[f32], eps: f32, out: &mut [f32], rstd: &mut [f32])
}

#[inline(always)]
fn rms_norm_again_body<const FMA: bool>(x: &[f32], w: &[f32], rstd: &[f32], out: &mut [f32]) {
    let d = w.len();
    for ((x, out), &r) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)).zip(rstd) {
        for j in 0..d {
            out[j] = x[j] * r * w[j];
        }
    }
}
by_isa! {
    /// The output of [`rms_norm_rows`] again, from the stored `rstd`.
    pub(crate) fn rms_norm_again => rms_norm_again_body(x: &[f32], w: &[f32], rstd: &[f32], out: &mut [f32])
}

/// RMSNorm of rows of `w.len()` values: `out = x / sqrt(mean(x^2) + eps) * w`.
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let d = w.len();
    assert!(
        d > 0 && x.len().is_multiple_of(d) && x.len() == out.len(),
        "rms_norm: {} values in, {} out, rows of {d}",
        x.len(),
        out.len()
    );
    let rows = task_rows(d);
    x.par_chunks(rows * d).zip(out.par_chunks_mut(rows * d)).for_each(|(x, out)| {
        let mut rstd = vec![0.0; x.len() / d];
        rms_norm_rows(x, w, eps, out, &mut rstd);
    });
}

#[inline(always)]
fn swiglu_body<const FMA: bool>(gate_up: &[f32], out: &mut [f32], f: usize) {
    for (gate_up, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
        let (gate, up) = gate_up.split_at(f);
        for j in 0..f {
            out[j] = elementary::silu::<FMA>(gate[j]) * up[j];
        }
    }
}
by_isa! { fn swiglu_rows => swiglu_body(gate_up: &[f32], out: &mut [f32], f: usize) }

/// `out[n, f] = silu(gate) * up` for rows `[gate | up]` of `2 f` values.
pub fn swiglu(gate_up: &[f32], out: &mut [f32], f: usize) {
    assert!(
        f > 0 && out.len().is_multiple_of(f) && gate_up.len() == 2 * out.len(),
        "swiglu: {} values in, {} out, rows of {f}",
        gate_up.len(),
        out.len()
    );
    let rows = task_rows(f);
    gate_up
        .par_chunks(rows * 2 * f)
        .zip(out.par_chunks_mut(rows * f))
        .for_each(|(gate_up, out)| swiglu_rows(gate_up, out, f));
}

#[inline(always)]
fn swiglu_backward_body<const FMA: bool>(grad: &[f32], gate_up: &mut [f32], f: usize) {
    for (grad, gate_up) in grad.chunks_exact(f).zip(gate_up.chunks_exact_mut(2 * f)) {
        let (gate, up) = gate_up.split_at_mut(f);
        for j in 0..f {
            let s = elementary::sigmoid::<FMA>(gate[j]);
            let silu = gate[j] * s;
            let d_gate = grad[j] * up[j] * fma::<FMA>(silu, 1.0 - s, s);
            up[j] = grad[j] * silu;
            gate[j] = d_gate;
        }
    }
}
by_isa! { fn swiglu_backward_rows => swiglu_backward_body(grad: &[f32], gate_up: &mut [f32], f: usize) }

/// Replaces `gate_up` by its gradient.
pub(crate) fn swiglu_backward(grad: &[f32], gate_up: &mut [f32], f: usize) {
    let rows = task_rows(f);
    grad.par_chunks(rows * f)
        .zip(gate_up.par_chunks_mut(rows * 2 * f))
        .for_each(|(grad, gate_up)| swiglu_backward_rows(grad, gate_up, f));
}

#[inline(always)]
fn rope_body<const FMA: bool>(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32) {
    let half = cos.len();
    for head in x.chunks_exact_mut(2 * half) {
        let (low, high) = head.split_at_mut(half);
        for j in 0..half {
            let (c, s) = (cos[j], sin[j] * direction);
            let (a, b) = (low[j], high[j]);
            low[j] = fma::<FMA>(a, c, -(b * s));
            high[j] = fma::<FMA>(b, c, a * s);
        }
    }
}
by_isa! {
    /// Rotates every head of one row; `direction` 1 forwards, -1 back.
    pub(crate) fn rotate => rope_body(x: &mut [f32], cos: &[f32], sin: &[f32], direction: f32)
}

/// Applies rotary position embedding to one row of heads, each `2 * cos.len()` wide, in place. `cos` and `sin` come
/// from [`crate::RopeTable::row`].
pub fn rope_row(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(
        cos.len() == sin.len() && x.len().is_multiple_of(2 * cos.len()),
        "rope_row: {} values are not whole heads of {}",
        x.len(),
        2 * cos.len()
    );
    rotate(x, cos, sin, 1.0);
}

#[inline(always)]
fn softmax_body<const FMA: bool>(x: &mut [f32]) {
    let max = elementary::max(x);
    let sum = elementary::exp_sum::<FMA>(x, max);
    let inverse = 1.0 / sum;
    for x in x.iter_mut() {
        *x *= inverse;
    }
}
by_isa! {
    /// Softmax of one row, in place.
    pub fn softmax => softmax_body(x: &mut [f32])
}

#[inline(always)]
fn log_sum_exp_body<const FMA: bool>(x: &[f32]) -> f32 {
    let max = elementary::max(x);
    if max == f32::NEG_INFINITY {
        return max;
    }
    max + elementary::sum(x.len(), |i| elementary::exp::<FMA>(x[i] - max)).ln()
}
by_isa! {
    /// `ln(sum(exp(x)))` of one row.
    pub fn log_sum_exp => log_sum_exp_body(x: &[f32]) -> f32
}

#[inline(always)]
fn loss_gradient_body<const FMA: bool>(row: &mut [f32], target: usize, weight: f32) -> f32 {
    let max = elementary::max(row);
    let at_target = row[target];
    let sum = elementary::exp_sum::<FMA>(row, max);
    let factor = weight / sum;
    for x in row.iter_mut() {
        *x *= factor;
    }
    row[target] -= weight;
    at_target - max - sum.ln()
}
by_isa! {
    /// Turns a row of logits into `weight * (softmax - onehot(target))`; returns `log p(target)`.
    pub(crate) fn loss_gradient => loss_gradient_body(row: &mut [f32], target: usize, weight: f32) -> f32
}

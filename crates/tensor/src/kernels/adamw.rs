//! The update of AdamW (arXiv 1711.05101) and the norm it clips by, over flat slices in one pass each.

use crate::isa::by_isa;

/// The numbers of one step that are the same for every weight.
#[derive(Clone, Copy, Debug)]
pub struct AdamWRule {
    /// Factor on the gradient (clipping).
    pub clip: f32,
    /// Decay of the first moment.
    pub b1: f32,
    /// Decay of the second moment.
    pub b2: f32,
    /// Learning rate, divided by the first moment's bias correction.
    pub rate: f32,
    /// Inverse root of the second moment's bias correction.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

#[inline(always)]
fn update_body<const FMA: bool>(
    rule: AdamWRule,
    keep: f32,
    w: &mut [f32],
    g: &mut [f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let n = w.len();
    let (g, m, v) = (&mut g[..n], &mut m[..n], &mut v[..n]);
    let (rest1, rest2) = (1.0 - rule.b1, 1.0 - rule.b2);
    for i in 0..n {
        let grad = g[i] * rule.clip;
        g[i] = 0.0;
        m[i] = rule.b1 * m[i] + rest1 * grad;
        v[i] = rule.b2 * v[i] + rest2 * grad * grad;
        w[i] = w[i] * keep - rule.rate * m[i] / (v[i].sqrt() * rule.root + rule.eps);
    }
}
by_isa! {
    fn update_part => update_body(
        rule: AdamWRule, keep: f32, w: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32]
    )
}

/// Updates weights `w` and moments `m`, `v` from gradients `g`, all of one length, and clears `g`. Weights shrink by
/// the factor `keep` (weight decay).
pub fn adamw(rule: AdamWRule, keep: f32, w: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let n = w.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: slices of different lengths");
    update_part(rule, keep, w, g, m, v);
}

#[inline(always)]
fn sum_of_squares_body<const FMA: bool>(x: &[f32]) -> f64 {
    // Sixteen running sums fill vector registers; their order is part of the result.
    let mut lanes = [0f64; 16];
    let (body, tail) = x.as_chunks::<16>();
    for chunk in body {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x) * f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
}
by_isa! {
    /// Sum of squares in f64: finite unless an element is not (squares of f32 cannot overflow f64).
    pub fn sum_of_squares => sum_of_squares_body(x: &[f32]) -> f64
}

//! The update of AdamW (arXiv 1711.05101) and the norm it clips by, over flat slices in one pass each.

use crate::isa::by_isa;
use bytemuck::Pod;
use half::bf16;

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

/// A type that moments can be stored as; all arithmetic is in f32.
pub trait Moment: Pod + Send + Sync {
    /// The stored number.
    fn load(self) -> f32;

    /// Rounds to what can be stored. `noise` holds 16 random bits for types that round at random.
    fn store(value: f32, noise: u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32, _: u32) -> Self {
        value
    }
}

/// Rounded up or down at random, in proportion to how near each is: on average nothing is lost, where rounding to the
/// nearest would let a moment stand still whenever it changes by less than one part in 256.
impl Moment for bf16 {
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn store(value: f32, noise: u32) -> Self {
        bf16::from_bits((value.to_bits().wrapping_add(noise & 0xffff) >> 16) as u16)
    }
}

#[inline(always)]
fn update_body<const FMA: bool, T: Moment>(
    rule: AdamWRule,
    keep: f32,
    noise: u32,
    w: &mut [f32],
    g: &[f32],
    m: &mut [T],
    v: &mut [T],
) {
    let n = w.len();
    let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
    let (rest1, rest2) = (1.0 - rule.b1, 1.0 - rule.b2);
    for i in 0..n {
        let grad = g[i] * rule.clip;
        let first = rule.b1 * m[i].load() + rest1 * grad;
        let second = rule.b2 * v[i].load() + rest2 * grad * grad;
        w[i] = w[i] * keep - rule.rate * first / (second.sqrt() * rule.root + rule.eps);
        let random = mix(noise.wrapping_add(i as u32));
        m[i] = T::store(first, random);
        v[i] = T::store(second, random >> 16);
    }
}
by_isa! {
    fn update_part<T: Moment> => update_body(
        rule: AdamWRule, keep: f32, noise: u32, w: &mut [f32], g: &[f32], m: &mut [T], v: &mut [T]
    )
}

/// A number whose bits look random, for each counter (the finaliser lowbias32).
#[inline(always)]
fn mix(counter: u32) -> u32 {
    let x = (counter ^ counter >> 16).wrapping_mul(0x7feb_352d);
    let x = (x ^ x >> 15).wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// Updates weights `w` and moments `m`, `v` from gradients `g`, all of one length. Weights shrink by the factor `keep` (weight decay); `noise + i` is the counter of the random bits by which element `i` of moments in
/// fewer bits is rounded.
pub fn adamw<T: Moment>(
    rule: AdamWRule,
    keep: f32,
    noise: u32,
    w: &mut [f32],
    g: &[f32],
    m: &mut [T],
    v: &mut [T],
) {
    let n = w.len();
    assert!(g.len() == n && m.len() == n && v.len() == n, "adamw: slices of different lengths");
    update_part(rule, keep, noise, w, g, m, v);
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

//! Elementary functions and reductions that the compiler turns into vector code. Sums run over fixed lanes that are
//! added in a fixed tree, so they do not depend on the vector width.

/// Partial sums kept apart in a reduction: enough to hide the latency of an addition on the widest registers.
pub(crate) const LANES: usize = 64;

/// `a * b + c`, fused where the instruction set can.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` to about 1 unit in the last place; 0 below -87.3, `e^88.37` above 88.37. NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    let clamped = if x > 88.37 { 88.37 } else { x };
    let shifted = fma::<FMA>(clamped, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    // ln 2 in two parts, the first exact in few bits, so that the remainder keeps its precision.
    let r = fma::<FMA>(n, -0.693_359_4, clamped);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = fma::<FMA>(1.987_569_1e-4, r, 1.398_2e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    p = fma::<FMA>(p * r, r, r) + 1.0;
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < -87.3 { 0.0 } else { p * scale }
}

/// `x / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn silu<const FMA: bool>(x: f32) -> f32 {
    x * sigmoid::<FMA>(x)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn tree(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of `f` over `0..n`; `f` must be cheap and free of branches.
#[inline(always)]
pub(crate) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    let mut base = 0;
    while base < whole {
        for (lane, acc) in lanes.iter_mut().enumerate() {
            *acc += f(base + lane);
        }
        base += LANES;
    }
    for i in whole..n {
        lanes[i - whole] += f(i);
    }
    tree(lanes, |a, b| a + b)
}

/// Dot product.
#[inline(always)]
pub(crate) fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len().min(b.len());
    let (a, b) = (&a[..n], &b[..n]);
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] = fma::<FMA>(a[lane], b[lane], lanes[lane]);
        }
    }
    for (lane, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[lane] = fma::<FMA>(*a, *b, lanes[lane]);
    }
    tree(lanes, |a, b| a + b)
}

/// Largest value; negative infinity if there is none. NaN is skipped.
#[inline(always)]
pub(crate) fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    for (lane, value) in rest.iter().enumerate() {
        lanes[lane] = if *value > lanes[lane] { *value } else { lanes[lane] };
    }
    tree(lanes, |a, b| if b > a { b } else { a })
}

/// Replaces each value by `exp(value - shift)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_sum<const FMA: bool>(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for lane in 0..LANES {
            let e = exp::<FMA>(chunk[lane] - shift);
            chunk[lane] = e;
            lanes[lane] += e;
        }
    }
    for (lane, value) in chunks.into_remainder().iter_mut().enumerate() {
        let e = exp::<FMA>(*value - shift);
        *value = e;
        lanes[lane] += e;
    }
    tree(lanes, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::{dot, exp, max, sum};

    fn worst_error<const FMA: bool>() -> f64 {
        (0..=1_750_000)
            .map(|i| -87.0 + i as f32 * 1e-4)
            .map(|x| (f64::from(exp::<FMA>(x)) / f64::from(x).exp() - 1.0).abs())
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_right_to_the_last_places_and_at_the_ends() {
        assert!(worst_error::<true>() < 1.5e-7, "fused: {:.2e}", worst_error::<true>());
        assert!(worst_error::<false>() < 2.5e-7, "not fused: {:.2e}", worst_error::<false>());
        assert_eq!(exp::<true>(0.0), 1.0);
        assert_eq!(exp::<true>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<true>(-88.0), 0.0);
        assert!(exp::<true>(f32::INFINITY) > 2e38 && exp::<true>(f32::INFINITY).is_finite());
        assert!(exp::<true>(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_cover_every_value() {
        for n in [0, 1, 5, 63, 64, 65, 200] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32 - 150.0).collect();
            let exact: f32 = x.iter().sum();
            assert_eq!(sum(n, |i| x[i]), exact);
            assert_eq!(dot::<true>(&x, &vec![1.0; n]), exact);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}

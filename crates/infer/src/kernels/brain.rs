//! The product of brain floats: weights and activations in bf16, sums in f32.
//!
//! Lane `i` of a sum adds the product of numbers `2i + 1`, then that of numbers `2i`, each rounded once; a product of two
//! brain floats is exact in f32. That is what AVX512-BF16's `vdpbf16ps` does, and two `fma` do it where it is missing, so
//! all instruction sets give the same bits (but for sums and numbers below 1.2e-38, which the former takes as zero).

use super::ints::Ints;
use super::lanes::LANES;
use super::tiles::{Multiplier, product};
use super::{COLUMN_BLOCK, Isa, SharedOut, dispatch};
use crate::team::Team;
use half::bf16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Two `fma` for a pair.
struct Halves;

impl<L: Ints> Multiplier<L> for Halves {
    type X = u16;
    type W = u16;
    const STEP: usize = 2 * LANES;

    #[inline(always)]
    unsafe fn step<const R: usize, const C: usize>(
        acc: &mut [[L; C]; R],
        x: *const u16,
        w: *const u16,
        k: usize,
    ) {
        // SAFETY: the caller gives rows of at least `STEP` numbers.
        unsafe {
            let mut ws = [L::splat(0.0); C];
            for (c, v) in ws.iter_mut().enumerate() {
                *v = L::load_odd(w.add(c * k));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let xs = L::load_odd(x.add(r * k));
                for (a, v) in row.iter_mut().zip(ws) {
                    *a = a.fma(xs, v);
                }
            }
            for (c, v) in ws.iter_mut().enumerate() {
                *v = L::load_even(w.add(c * k));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let xs = L::load_even(x.add(r * k));
                for (a, v) in row.iter_mut().zip(ws) {
                    *a = a.fma(xs, v);
                }
            }
        }
    }
}

/// `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
struct Pairs;

#[cfg(target_arch = "x86_64")]
impl Multiplier<super::x86::Avx512> for Pairs {
    type X = u16;
    type W = u16;
    const STEP: usize = 2 * LANES;

    #[inline(always)]
    unsafe fn step<const R: usize, const C: usize>(
        acc: &mut [[super::x86::Avx512; C]; R],
        x: *const u16,
        w: *const u16,
        k: usize,
    ) {
        use std::arch::x86_64::*;
        // SAFETY: the caller gives rows of at least `STEP` numbers, and has checked the processor.
        unsafe {
            let mut ws = [_mm512_setzero_si512(); C];
            for (c, v) in ws.iter_mut().enumerate() {
                *v = _mm512_loadu_si512(w.add(c * k).cast());
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let xs: __m512bh = std::mem::transmute(_mm512_loadu_si512(x.add(r * k).cast()));
                for (a, v) in row.iter_mut().zip(ws) {
                    a.0 = _mm512_dpbf16_ps(a.0, xs, std::mem::transmute::<__m512i, __m512bh>(v));
                }
            }
        }
    }
}

/// For [`dispatch`], which gives instruction sets that have no instruction for pairs.
#[inline(always)]
unsafe fn by_halves<L: Ints>(
    x: *const u16,
    w: *const u16,
    shape: (usize, usize, usize),
    out: *mut f32,
    stride: usize,
) {
    unsafe { product::<L, Halves>(x, w, shape, out, stride) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
unsafe fn by_pairs(x: *const u16, w: *const u16, shape: (usize, usize, usize), out: *mut f32, stride: usize) {
    unsafe { product::<super::x86::Avx512, Pairs>(x, w, shape, out, stride) }
}

/// Whether this machine multiplies pairs of brain floats in one instruction, and may.
#[cfg(target_arch = "x86_64")]
fn has_pairs(isa: Isa) -> bool {
    matches!(isa, Isa::Avx512 | Isa::Amx) && is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_pairs(_: Isa) -> bool {
    false
}

/// `out[i, ..n] = x[i] w[n, k]^T` where the rows of `out` are `stride` apart and all numbers but those of `out` are
/// brain floats. Row `i` of `out` has the same bits for every number of rows.
pub(crate) fn linear(isa: Isa, team: &Team, x: &[u16], w: &[u16], k: usize, out: &mut [f32], stride: usize) {
    multiply(isa, has_pairs(isa), team, x, w, k, (out, stride));
}

fn multiply(
    isa: Isa,
    pairs: bool,
    team: &Team,
    x: &[u16],
    w: &[u16],
    k: usize,
    (out, stride): (&mut [f32], usize),
) {
    let (m, n) = (x.len() / k, w.len() / k);
    assert_eq!((x.len(), w.len()), (m * k, n * k), "shapes of a product of brain floats");
    assert!(
        m == 0 || out.len() >= (m - 1) * stride + n && stride >= n,
        "output of a product of brain floats"
    );
    if m == 0 {
        return;
    }
    let target = SharedOut(out.as_mut_ptr());
    team.run(n.div_ceil(COLUMN_BLOCK), |unit| {
        let first = unit * COLUMN_BLOCK;
        let shape = (m, (n - first).min(COLUMN_BLOCK), k);
        let (x, w, out) = (x.as_ptr(), w[first * k..].as_ptr(), target.at(first));
        match pairs {
            // SAFETY: `has_pairs`; shapes were checked above.
            #[cfg(target_arch = "x86_64")]
            true => unsafe { by_pairs(x, w, shape, out, stride) },
            _ => {
                use super::brain;
                dispatch!(isa, brain::by_halves(x: *const u16, w: *const u16, shape: (usize, usize, usize), out: *mut f32, stride: usize));
            }
        }
    });
}

/// Rounds rows of `columns` floats to brain floats, ties to even.
pub(crate) fn round(team: &Team, x: &[f32], columns: usize, out: &mut Vec<u16>) {
    out.resize(x.len(), 0);
    let rows = SharedOut::new(out);
    team.rows(x.len() / columns, columns, |row| {
        // SAFETY: a row of its own, inside `out`.
        let out = unsafe { rows.slice(row * columns, columns) };
        out.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(&x[row * columns..(row + 1) * columns]);
    });
}

/// What [`round`] leaves over, exactly.
pub(crate) fn rounded_off(x: &[f32], rest: &mut [f32]) {
    rest.iter_mut().zip(x).for_each(|(rest, x)| *rest = x - bf16::from_f32(*x).to_f32());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<u16> {
        let number = |i: u64| {
            let z = (seed << 32 | i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let z = (z ^ z >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bf16::from_f32((z >> 40) as f32 / (1u64 << 23) as f32 - 1.0).to_bits()
        };
        (0..count as u64).map(number).collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits_alone_and_in_a_batch() {
        for (m, n, k) in [(1, 1, 1), (1, 7, 5), (3, 4, 32), (13, 71, 77), (9, 33, 64), (200, 9, 95)] {
            let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
            let mut reference = vec![f32::NAN; m * n];
            multiply(Isa::Portable, false, &Team::new(1), &x, &w, k, (&mut reference, n));
            for (row, x) in reference.chunks(n).zip(x.chunks(k)) {
                for (value, w) in row.iter().zip(w.chunks(k)) {
                    let product =
                        |(x, w): (&u16, &u16)| bf16::from_bits(*x).to_f64() * bf16::from_bits(*w).to_f64();
                    let exact: f64 = x.iter().zip(w).map(product).sum();
                    assert!((f64::from(*value) - exact).abs() < 1e-5, "{m} {n} {k}");
                }
            }
            for isa in Isa::available() {
                for pairs in [false, has_pairs(isa)] {
                    let mut out = vec![f32::NAN; m * (n + 3)];
                    multiply(isa, pairs, &Team::new(2), &x, &w, k, (&mut out, n + 3));
                    for (i, (out, reference)) in out.chunks(n + 3).zip(reference.chunks(n)).enumerate() {
                        assert_eq!(
                            bits(&out[..n]),
                            bits(reference),
                            "{isa:?} {pairs} row {i} of {m} {n} {k}"
                        );
                        assert!(out[n..].iter().all(|x| x.is_nan()), "written beside the output");
                        let mut alone = vec![f32::NAN; n];
                        multiply(isa, pairs, &Team::new(1), &x[i * k..][..k], &w, k, (&mut alone, n));
                        assert_eq!(bits(&alone), bits(reference), "{isa:?} row {i} alone");
                    }
                }
            }
        }
    }

    #[test]
    fn a_number_is_its_rounded_half_and_what_that_leaves_over() {
        let x: Vec<f32> = (0..70).map(|i| (i as f32 * 0.37).sin() * 10f32.powi(i % 9 - 4)).collect();
        let (mut rounded, mut rest) = (Vec::new(), vec![0.0; x.len()]);
        round(&Team::new(2), &x, 35, &mut rounded);
        rounded_off(&x, &mut rest);
        for ((x, rounded), rest) in x.iter().zip(rounded).zip(rest) {
            assert_eq!(bf16::from_bits(rounded).to_f32() + rest, *x);
            assert!(rest.abs() <= x.abs() / 256.0, "{rest} of {x}");
        }
    }
}

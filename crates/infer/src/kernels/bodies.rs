//! The kernels, written once over [`Lanes`]; [`super`] instantiates them per instruction set and checks bounds.
//!
//! Every output element is computed by one order of operations that depends only on the problem (`k`, the position
//! in the sequence), never on how many other rows or columns are computed beside it. Tiles only choose how many
//! independent elements advance together.

use super::ints::Ints;
use super::lanes::{LANES, Lanes};
use super::tiles::{Multiplier, product};
use std::marker::PhantomData;

/// How weights are stored; they are multiplied as floats.
pub(super) trait Weight {
    type Bits: Copy + Default;
    /// Sixteen weights.
    unsafe fn load<L: Ints>(from: *const Self::Bits) -> L;
}

macro_rules! weights {
    ($($(#[$doc:meta])* $name:ident, $bits:ty, $load:ident;)*) => {
        $($(#[$doc])*
        pub(super) struct $name;
        impl Weight for $name {
            type Bits = $bits;
            #[inline(always)]
            unsafe fn load<L: Ints>(from: *const $bits) -> L {
                unsafe { L::$load(from) }
            }
        })*
    };
}

weights! {
    /// Single precision.
    F32, f32, load;
    /// Half precision.
    F16, u16, load_f16;
    /// The upper half of single precision.
    Bf16, u16, load_bf16;
}

/// Activations in single precision, weights in any.
struct Floats<W>(PhantomData<W>);

impl<L: Ints, W: Weight> Multiplier<L> for Floats<W> {
    type X = f32;
    type W = W::Bits;
    const STEP: usize = LANES;

    #[inline(always)]
    unsafe fn step<const R: usize, const C: usize>(
        acc: &mut [[L; C]; R],
        x: *const f32,
        w: *const W::Bits,
        k: usize,
    ) {
        // SAFETY: the caller gives rows of at least `LANES` numbers.
        unsafe {
            let mut ws = [L::splat(0.0); C];
            for (c, v) in ws.iter_mut().enumerate() {
                *v = W::load(w.add(c * k));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let xv = L::load(x.add(r * k));
                for (a, v) in row.iter_mut().zip(ws) {
                    *a = a.fma(xv, v);
                }
            }
        }
    }
}

/// `out[i * out_stride + j] = x[i] . w[j]`, see [`product`].
///
/// # Safety
/// The pointers must cover these shapes and the processor must have the features of `L`.
#[inline(always)]
pub(super) unsafe fn linear<L: Ints, W: Weight>(
    x: *const f32,
    w: *const W::Bits,
    shape: (usize, usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    unsafe { product::<L, Floats<W>>(x, w, shape, out, out_stride) }
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` over one row of `n`.
///
/// # Safety
/// As for [`linear`].
#[inline(always)]
pub(super) unsafe fn rms_norm<L: Lanes>(
    x: *const f32,
    weight: *const f32,
    n: usize,
    eps: f32,
    out: *mut f32,
) {
    // SAFETY: all three rows have n floats.
    unsafe {
        let whole = n / LANES * LANES;
        let mut squares = L::splat(0.0);
        for p in (0..whole).step_by(LANES) {
            let v = L::load(x.add(p));
            squares = squares.fma(v, v);
        }
        let v = L::load_first(x.add(whole), n - whole);
        squares = squares.fma(v, v);
        let inverse = L::splat(1.0 / (squares.sum() / n as f32 + eps).sqrt());
        for p in (0..whole).step_by(LANES) {
            L::load(x.add(p)).mul(inverse).mul(L::load(weight.add(p))).store(out.add(p));
        }
        let rest = n - whole;
        let last = L::load_first(x.add(whole), rest).mul(inverse);
        last.mul(L::load_first(weight.add(whole), rest)).store_first(out.add(whole), rest);
    }
}

/// `out = gate / (1 + e^-gate) * up` over one row of `n`.
///
/// # Safety
/// As for [`linear`].
#[inline(always)]
pub(super) unsafe fn swiglu<L: Lanes>(gate: *const f32, up: *const f32, n: usize, out: *mut f32) {
    // SAFETY: all three rows have n floats.
    unsafe {
        let whole = n / LANES * LANES;
        for p in (0..whole).step_by(LANES) {
            silu_times::<L>(L::load(gate.add(p)), L::load(up.add(p))).store(out.add(p));
        }
        let rest = n - whole;
        let last = silu_times::<L>(L::load_first(gate.add(whole), rest), L::load_first(up.add(whole), rest));
        last.store_first(out.add(whole), rest);
    }
}

/// A function, not a closure: only functions are sure to be compiled with the caller's instructions.
#[inline(always)]
unsafe fn silu_times<L: Lanes>(gate: L, up: L) -> L {
    unsafe { gate.div(L::splat(1.0).add(gate.mul(L::splat(-1.0)).exp())).mul(up) }
}

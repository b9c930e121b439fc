//! The kernels, written once over [`Lanes`]; [`super`] instantiates them per instruction set and checks bounds.
//!
//! Every output element is computed by one order of operations that depends only on the problem (`k`, the position
//! in the sequence), never on how many other rows or columns are computed beside it. Tiles only choose how many
//! independent elements advance together.

use super::ints::Ints;
use super::lanes::{LANES, Lanes};

/// How weights are stored; they are multiplied as floats.
pub(super) trait Weight {
    type Bits: Copy + Default;
    /// Sixteen weights.
    unsafe fn load<L: Ints>(from: *const Self::Bits) -> L;
    /// The first `count < 16` weights, the rest are zero.
    #[inline(always)]
    unsafe fn load_first<L: Ints>(from: *const Self::Bits, count: usize) -> L {
        let mut all = [Self::Bits::default(); LANES];
        // SAFETY: the caller gives `count` weights.
        unsafe {
            std::ptr::copy_nonoverlapping(from, all.as_mut_ptr(), count);
            Self::load(all.as_ptr())
        }
    }
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

/// Rows of `x` that stay in the second-level cache while all columns pass over them.
const ROW_BLOCK: usize = 96;

/// `out[i * out_stride + j] = x[i] . w[j]` for `i < m`, `j < n`; `x` is [m, k], `w` is [n, k], both dense.
///
/// # Safety
/// The pointers must cover these shapes and the processor must have the features of `L`.
#[inline(always)]
pub(super) unsafe fn linear<L: Ints, W: Weight>(
    x: *const f32,
    w: *const W::Bits,
    (m, n, k): (usize, usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    unsafe {
        match L::TILE {
            (6, 4) => linear_tiled::<L, W, 6, 4>(x, w, (m, n, k), out, out_stride),
            _ => linear_tiled::<L, W, 2, 2>(x, w, (m, n, k), out, out_stride),
        }
    }
}

#[inline(always)]
unsafe fn linear_tiled<L: Ints, W: Weight, const R: usize, const C: usize>(
    x: *const f32,
    w: *const W::Bits,
    (m, n, k): (usize, usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    // Weights that are used by few rows come from memory, which is fastest in order: column by column.
    // SAFETY: the shapes are the caller's.
    match m {
        1 => return unsafe { columns::<L, W, 1>(x, w, (n, k), out, out_stride) },
        2 => return unsafe { columns::<L, W, 2>(x, w, (n, k), out, out_stride) },
        3 => return unsafe { columns::<L, W, 3>(x, w, (n, k), out, out_stride) },
        4 => return unsafe { columns::<L, W, 4>(x, w, (n, k), out, out_stride) },
        _ => {}
    }
    let mut start = 0;
    while start < m {
        let end = (start + ROW_BLOCK).min(m);
        let mut j = 0;
        while j < n {
            let wide = n - j >= C;
            let mut i = start;
            while i < end {
                // SAFETY: the tile lies inside the shapes given by the caller.
                unsafe {
                    let (x, w, out) = (x.add(i * k), w.add(j * k), out.add(i * out_stride + j));
                    match (end - i >= R, wide) {
                        (true, true) => tile::<L, W, R, C>(x, w, k, out, out_stride),
                        (true, false) => tile::<L, W, R, 1>(x, w, k, out, out_stride),
                        (false, true) => tile::<L, W, 1, C>(x, w, k, out, out_stride),
                        (false, false) => tile::<L, W, 1, 1>(x, w, k, out, out_stride),
                    }
                }
                i += if end - i >= R { R } else { 1 };
            }
            j += if wide { C } else { 1 };
        }
        start = end;
    }
}

/// As [`linear`] for `R` rows.
#[inline(always)]
unsafe fn columns<L: Ints, W: Weight, const R: usize>(
    x: *const f32,
    w: *const W::Bits,
    (n, k): (usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    for j in 0..n {
        // SAFETY: column `j` lies inside the shapes given by the caller.
        unsafe { tile::<L, W, R, 1>(x, w.add(j * k), k, out.add(j), out_stride) };
    }
}

#[inline(always)]
unsafe fn tile<L: Ints, W: Weight, const R: usize, const C: usize>(
    x: *const f32,
    w: *const W::Bits,
    k: usize,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: rows 0..R of x and 0..C of w have k floats each.
    unsafe {
        let mut acc = [[L::splat(0.0); C]; R];
        let whole = k / LANES * LANES;
        let mut p = 0;
        while p < whole {
            let mut ws = [L::splat(0.0); C];
            for (c, v) in ws.iter_mut().enumerate() {
                *v = W::load(w.add(c * k + p));
            }
            for (r, row) in acc.iter_mut().enumerate() {
                let xv = L::load(x.add(r * k + p));
                for (a, v) in row.iter_mut().zip(ws) {
                    *a = a.fma(xv, v);
                }
            }
            p += LANES;
        }
        if whole < k {
            let rest = k - whole;
            for (r, row) in acc.iter_mut().enumerate() {
                let xv = L::load_first(x.add(r * k + whole), rest);
                for (c, a) in row.iter_mut().enumerate() {
                    *a = a.fma(xv, W::load_first(w.add(c * k + whole), rest));
                }
            }
        }
        for (r, row) in acc.iter().enumerate() {
            for (c, a) in row.iter().enumerate() {
                *out.add(r * out_stride + c) = a.sum();
            }
        }
    }
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

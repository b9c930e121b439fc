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
        let one = L::splat(1.0);
        let silu_times = |g: L, u: L| g.div(one.add(g.mul(L::splat(-1.0)).exp())).mul(u);
        let whole = n / LANES * LANES;
        for p in (0..whole).step_by(LANES) {
            silu_times(L::load(gate.add(p)), L::load(up.add(p))).store(out.add(p));
        }
        let rest = n - whole;
        let last = silu_times(L::load_first(gate.add(whole), rest), L::load_first(up.add(whole), rest));
        last.store_first(out.add(whole), rest);
    }
}

/// One attention problem: `queries` query vectors of one key/value head against the pages of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct AttentionTask<'a> {
    /// Query vectors of `head_dim` floats each.
    pub queries: &'a [&'a [f32]],
    /// How many positions each query sees, from the first.
    pub visible: &'a [usize],
    /// Per page the keys of this head, [head_dim, PAGE]: one dimension of all positions side by side.
    pub keys: &'a [&'a [f32]],
    /// Per page the values of this head, [PAGE, value_stride].
    pub values: &'a [&'a [f32]],
    /// `head_dim` rounded up to whole [`LANES`].
    pub value_stride: usize,
    /// Usually 1 / sqrt(head_dim).
    pub scale: f32,
}

/// `out[q] = softmax(scale * queries[q] . keys) values` over the visible positions of each query.
/// `scores` is scratch of at least queries * pages * LANES floats; `out` is [queries, value_stride].
///
/// # Safety
/// The slices must have the documented lengths (checked by the caller) and the processor the features of `L`.
#[inline(always)]
pub(super) unsafe fn attention<L: Lanes>(task: AttentionTask<'_>, scores: *mut f32, out: *mut f32) {
    let stride = task.keys.len() * LANES;
    let queries = task.queries.len();
    // SAFETY: see the function's contract; each query has its own stretch of `scores` and of `out`.
    unsafe {
        let mut q = 0;
        while q < queries {
            let tall = queries - q >= 4;
            let last = if tall { 4 } else { 1 };
            let longest = task.visible[q..q + last].iter().copied().max().unwrap_or(0);
            let pages = longest.div_ceil(LANES);
            let mut p = 0;
            while p < pages {
                let at = scores.add(q * stride + p * LANES);
                match (tall, pages - p >= 2) {
                    (true, true) => score_tile::<L, 4, 2>(&task, q, p, at, stride),
                    (true, false) => score_tile::<L, 4, 1>(&task, q, p, at, stride),
                    (false, true) => score_tile::<L, 1, 2>(&task, q, p, at, stride),
                    (false, false) => score_tile::<L, 1, 1>(&task, q, p, at, stride),
                }
                p += if pages - p >= 2 { 2 } else { 1 };
            }
            q += last;
        }
        for (q, &visible) in task.visible.iter().enumerate() {
            let row = scores.add(q * stride);
            let total = softmax::<L>(row, visible);
            let inverse = L::splat(1.0 / total);
            let mut d = 0;
            while d < task.value_stride {
                let to = out.add(q * task.value_stride + d);
                if task.value_stride - d >= 4 * LANES {
                    weighted_values::<L, 4>(&task, row, visible, d, inverse, to);
                    d += 4 * LANES;
                } else {
                    weighted_values::<L, 1>(&task, row, visible, d, inverse, to);
                    d += LANES;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn score_tile<L: Lanes, const Q: usize, const P: usize>(
    task: &AttentionTask<'_>,
    q: usize,
    p: usize,
    scores: *mut f32,
    stride: usize,
) {
    // SAFETY: a page holds head_dim rows of LANES keys, a query head_dim floats.
    unsafe {
        let mut acc = [[L::splat(0.0); P]; Q];
        for d in 0..task.queries[q].len() {
            let mut keys = [L::splat(0.0); P];
            for (i, key) in keys.iter_mut().enumerate() {
                *key = L::load(task.keys.get_unchecked(p + i).as_ptr().add(d * LANES));
            }
            for (i, row) in acc.iter_mut().enumerate() {
                let query = L::splat(*task.queries.get_unchecked(q + i).get_unchecked(d));
                for (a, key) in row.iter_mut().zip(keys) {
                    *a = a.fma(query, key);
                }
            }
        }
        for (i, row) in acc.iter().enumerate() {
            for (j, a) in row.iter().enumerate() {
                a.mul(L::splat(task.scale)).store(scores.add(i * stride + j * LANES));
            }
        }
    }
}

/// Replaces the first `n` scores by e^(score - max) and returns their sum.
#[inline(always)]
unsafe fn softmax<L: Lanes>(scores: *mut f32, n: usize) -> f32 {
    // SAFETY: the row holds n rounded up to whole LANES floats.
    unsafe {
        let whole = n / LANES * LANES;
        let rest = n - whole;
        let mut top = L::splat(f32::NEG_INFINITY);
        for p in (0..whole).step_by(LANES) {
            top = top.max(L::load(scores.add(p)));
        }
        let mut largest = top.largest();
        for p in whole..n {
            largest = largest.max(*scores.add(p));
        }
        let shift = L::splat(-largest);
        let mut sum = L::splat(0.0);
        for p in (0..whole).step_by(LANES) {
            let e = L::load(scores.add(p)).add(shift).exp();
            sum = sum.add(e);
            e.store(scores.add(p));
        }
        if rest > 0 {
            L::load(scores.add(whole)).add(shift).exp().store(scores.add(whole));
            sum = sum.add(L::load_first(scores.add(whole), rest));
        }
        sum.sum()
    }
}

#[inline(always)]
unsafe fn weighted_values<L: Lanes, const C: usize>(
    task: &AttentionTask<'_>,
    weights: *const f32,
    visible: usize,
    d: usize,
    inverse: L,
    out: *mut f32,
) {
    // SAFETY: `visible` positions lie in the pages; columns d..d+C*LANES lie in value_stride.
    unsafe {
        let mut acc = [L::splat(0.0); C];
        let mut t = 0;
        for page in task.values {
            let here = (visible - t).min(LANES);
            for i in 0..here {
                let weight = L::splat(*weights.add(t + i));
                let row = page.as_ptr().add(i * task.value_stride + d);
                for (c, a) in acc.iter_mut().enumerate() {
                    *a = a.fma(weight, L::load(row.add(c * LANES)));
                }
            }
            t += here;
            if t == visible {
                break;
            }
        }
        for (c, a) in acc.iter().enumerate() {
            a.mul(inverse).store(out.add(c * LANES));
        }
    }
}

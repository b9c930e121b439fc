//! Products of rows of activations with rows of weights, in tiles of sums that stay in registers.
//!
//! What the numbers are, and how a tile takes a step along them, is a [`Multiplier`]'s business. Each sum takes the steps
//! in order, whatever tile it is in, so it depends on its two rows alone.

use super::lanes::{LANES, Lanes};
use crate::prefetch::fetch;

/// Most numbers of a step.
const MAX_STEP: usize = 2 * LANES;

/// Bytes of a column of `x` that stay in the second-level cache while all columns pass over them.
const ROW_BLOCK_BYTES: usize = 384;

/// Bytes that weights which are read once are fetched ahead: beyond a page, where the processor does not guess.
const AHEAD: usize = 8 << 10;

/// How a tile of sums takes a step.
pub(super) trait Multiplier<L: Lanes> {
    /// A number of the activations.
    type X: Copy + Default;
    /// A number of the weights.
    type W: Copy + Default;
    /// Numbers that a step multiplies, at most [`MAX_STEP`].
    const STEP: usize;

    /// Adds the products of `STEP` numbers of rows of `x` and of `w`, which are `k` numbers apart.
    ///
    /// # Safety
    /// `R` rows of `x` and `C` of `w` can be read, and the processor has what `L` and this need.
    unsafe fn step<const R: usize, const C: usize>(
        acc: &mut [[L; C]; R],
        x: *const Self::X,
        w: *const Self::W,
        k: usize,
    );
}

/// `out[i * out_stride + j] = x[i] . w[j]` for `i < m`, `j < n`; `x` is [m, k], `w` is [n, k], both dense.
///
/// # Safety
/// The pointers must cover these shapes and the processor must have what `L` and `M` need.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes, M: Multiplier<L>>(
    x: *const M::X,
    w: *const M::W,
    (m, n, k): (usize, usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    // Weights that are used by few rows come from memory, which is fastest in order: column by column.
    unsafe {
        match (m, L::TILE) {
            (1, _) => columns::<L, M, 1>(x, w, (n, k), out, out_stride),
            (2, _) => columns::<L, M, 2>(x, w, (n, k), out, out_stride),
            (3, _) => columns::<L, M, 3>(x, w, (n, k), out, out_stride),
            (4, _) => columns::<L, M, 4>(x, w, (n, k), out, out_stride),
            (_, (6, 4)) => tiled::<L, M, 6, 4>(x, w, (m, n, k), out, out_stride),
            _ => tiled::<L, M, 2, 2>(x, w, (m, n, k), out, out_stride),
        }
    }
}

/// As [`product`] for `R` rows, a column at a time.
#[inline(always)]
unsafe fn columns<L: Lanes, M: Multiplier<L>, const R: usize>(
    x: *const M::X,
    w: *const M::W,
    (n, k): (usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    for j in 0..n {
        // SAFETY: column `j` lies inside the shapes given by the caller.
        unsafe { tile::<L, M, R, 1, true>(x, w.add(j * k), k, out.add(j), out_stride) };
    }
}

/// As [`product`], in tiles of `R` rows and `C` columns.
#[inline(always)]
unsafe fn tiled<L: Lanes, M: Multiplier<L>, const R: usize, const C: usize>(
    x: *const M::X,
    w: *const M::W,
    (m, n, k): (usize, usize, usize),
    out: *mut f32,
    out_stride: usize,
) {
    let row_block = ROW_BLOCK_BYTES / size_of::<M::X>();
    for start in (0..m).step_by(row_block) {
        let end = (start + row_block).min(m);
        let mut j = 0;
        while j < n {
            let wide = n - j >= C;
            let mut i = start;
            while i < end {
                let high = end - i >= R;
                // SAFETY: the tile lies inside the shapes given by the caller.
                unsafe {
                    let (x, w, out) = (x.add(i * k), w.add(j * k), out.add(i * out_stride + j));
                    match (high, wide) {
                        (true, true) => tile::<L, M, R, C, false>(x, w, k, out, out_stride),
                        (true, false) => tile::<L, M, R, 1, false>(x, w, k, out, out_stride),
                        (false, true) => tile::<L, M, 1, C, false>(x, w, k, out, out_stride),
                        (false, false) => tile::<L, M, 1, 1, false>(x, w, k, out, out_stride),
                    }
                }
                i += if high { R } else { 1 };
            }
            j += if wide { C } else { 1 };
        }
    }
}

/// One tile. If `FETCH`, what comes [`AHEAD`] of its weights is fetched on the way.
#[inline(always)]
unsafe fn tile<L: Lanes, M: Multiplier<L>, const R: usize, const C: usize, const FETCH: bool>(
    x: *const M::X,
    w: *const M::W,
    k: usize,
    out: *mut f32,
    out_stride: usize,
) {
    // SAFETY: rows 0..R of x and 0..C of w have k numbers each.
    unsafe {
        let mut acc = [[L::splat(0.0); C]; R];
        let whole = k / M::STEP * M::STEP;
        for p in (0..whole).step_by(M::STEP) {
            if FETCH {
                fetch(w.add(p).cast::<u8>().wrapping_add(AHEAD));
            }
            M::step(&mut acc, x.add(p), w.add(p), k);
        }
        if whole < k {
            // Zeros after the last numbers change no sum.
            let mut xs = [[M::X::default(); MAX_STEP]; R];
            let mut ws = [[M::W::default(); MAX_STEP]; C];
            for (r, row) in xs.iter_mut().enumerate() {
                std::ptr::copy_nonoverlapping(x.add(r * k + whole), row.as_mut_ptr(), k - whole);
            }
            for (c, row) in ws.iter_mut().enumerate() {
                std::ptr::copy_nonoverlapping(w.add(c * k + whole), row.as_mut_ptr(), k - whole);
            }
            M::step(&mut acc, xs.as_ptr().cast(), ws.as_ptr().cast(), MAX_STEP);
        }
        for (r, row) in acc.iter().enumerate() {
            for (c, a) in row.iter().enumerate() {
                *out.add(r * out_stride + c) = a.sum();
            }
        }
    }
}

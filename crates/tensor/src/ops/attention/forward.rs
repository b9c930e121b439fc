//! Attention forward: one task per block of queries and head.

use super::panels::{Panels, Part, padded};
use super::{Attention, KEY_BLOCK, Keys, gather_head, key_blocks};
use crate::Segment;
use crate::isa::by_isa;
use crate::kernels::elementary::{exp, exp_sum, max};
use crate::kernels::matmul::SharedMut;
use crate::kernels::micro::{Kernels, kernels};
use crate::pool::{Buffer, prepare};
use rayon::prelude::*;
use std::ops::Range;

/// Groups of kernel rows in a block of queries.
const QUERY_GROUPS: usize = 4;

/// Fills `out [n, h hd]` and `lse [h, n]`.
pub(super) fn run(call: &Attention, qkv: &[f32], n: usize, out: &mut [f32], lse: &mut [f32]) {
    let kernels = kernels();
    let keys = Panels::columns(kernels, call, qkv, n, Part::Keys);
    let values = Panels::inner(kernels, call, qkv, n, Part::Values);
    let step = QUERY_GROUPS * kernels.rows;
    let blocks: Vec<(&Segment, Range<usize>)> = (call.segments.list().iter())
        .flat_map(|segment| {
            let rows = segment.rows.clone();
            rows.clone().step_by(step).map(move |start| (segment, start..(start + step).min(rows.end)))
        })
        .collect();
    let heads = call.shape.heads;
    let work = Work { call, kernels, qkv, keys: &keys, values: &values, n };
    prepare(&work.sizes());
    let (out, lse) = (SharedMut::new(out), SharedMut::new(lse));
    (0..blocks.len() * heads).into_par_iter().for_each(|task| {
        let (segment, queries) = &blocks[task / heads];
        // SAFETY: each task writes the rows of its own queries and the columns of its own head.
        unsafe { work.query_block(segment, queries, task % heads, out, lse) };
    });
}

struct Work<'a> {
    call: &'a Attention,
    kernels: &'a Kernels,
    qkv: &'a [f32],
    keys: &'a Panels,
    values: &'a Panels,
    n: usize,
}

impl Work<'_> {
    /// Queries of a block at most.
    fn step(&self) -> usize {
        QUERY_GROUPS * self.kernels.rows
    }

    /// Values of a block's queries, scores and sums.
    fn sizes(&self) -> [usize; 3] {
        let hd = self.call.shape.head_dim;
        [hd, KEY_BLOCK, padded(hd, self.kernels.width)].map(|width| self.step() * width)
    }

    /// One block of queries of one head against all keys it sees.
    ///
    /// # Safety
    /// The block's rows and the head's columns of `out [n, h hd]` and `lse [h, n]` must not be accessed by anyone else.
    unsafe fn query_block(
        &self,
        segment: &Segment,
        queries: &Range<usize>,
        head: usize,
        out: SharedMut,
        lse: SharedMut,
    ) {
        let shape = &self.call.shape;
        let (hd, kv, count) = (shape.head_dim, shape.kv_of(head), queries.len());
        let depth = padded(hd, self.kernels.width);
        let [mut q, mut scores, mut sums] = self.sizes().map(Buffer::stale);
        let (q, sums) = (&mut q[..count * hd], &mut sums[..count * depth]);
        gather_head(self.call, self.qkv, shape.q_column(head), queries.clone(), shape.scale(), q);
        sums.fill(0.0);
        let mut running = vec![Running { max: f32::NEG_INFINITY, sum: 0.0 }; count];
        for keys in key_blocks(segment, queries, self.kernels.width) {
            products_with_rows(self.kernels, self.keys, kv, &keys, queries, q, hd, &mut scores);
            for (i, (state, scores)) in running.iter_mut().zip(scores.chunks_exact_mut(KEY_BLOCK)).enumerate()
            {
                absorb(scores, keys.seen(queries.start + i), state, &mut sums[i * depth..(i + 1) * depth]);
            }
            add_weighted_rows(self.kernels, self.values, kv, &keys, queries, &scores, sums);
        }
        for (i, (row, state)) in queries.clone().zip(&running).enumerate() {
            // SAFETY: within `out` and `lse`, and this task's own part (caller).
            unsafe {
                let out = std::slice::from_raw_parts_mut(out.at(row * shape.heads * hd + head * hd), hd);
                for (out, sum) in out.iter_mut().zip(&sums[i * depth..]) {
                    *out = sum / state.sum;
                }
                *lse.at(head * self.n + row) = state.max + state.sum.ln();
            }
        }
    }
}

/// `out[i, j] = x_i . y_j` for rows `x [queries, hd]` and the block's rows `y` (as columns of `panels`), as far as the
/// queries see them; `out` has rows [`KEY_BLOCK`] apart.
#[allow(clippy::too_many_arguments)]
pub(super) fn products_with_rows(
    kernels: &Kernels,
    panels: &Panels,
    kv: usize,
    keys: &Keys,
    queries: &Range<usize>,
    x: &[f32],
    hd: usize,
    out: &mut [f32],
) {
    let count = queries.len();
    assert!(x.len() >= count * hd && out.len() >= count * KEY_BLOCK);
    for column in (0..keys.visible.end - keys.start).step_by(kernels.width) {
        let panel = panels.panel(kv, keys.start + column);
        for first in (0..count).step_by(kernels.rows) {
            let rows = kernels.rows.min(count - first);
            if keys.seen(queries.start + first + rows - 1).end <= column {
                continue;
            }
            // SAFETY: rows `first..first + rows` of `x` and `out`; `column + width <= KEY_BLOCK`; the panel holds `hd` runs.
            unsafe {
                let (x, out) = (x.as_ptr().add(first * hd), out.as_mut_ptr().add(first * KEY_BLOCK + column));
                kernels.strided[rows - 1](hd, x, hd, 1, panel.as_ptr(), out, KEY_BLOCK, false);
            }
        }
    }
}

/// `sums[i] += sum_j weights[i, j] y_j` over the rows `y` of the block that the queries see (inner dimension of
/// `panels`); `weights` has rows [`KEY_BLOCK`] apart, 0 where a row is not seen; `sums` rows of `hd` padded.
pub(super) fn add_weighted_rows(
    kernels: &Kernels,
    panels: &Panels,
    kv: usize,
    keys: &Keys,
    queries: &Range<usize>,
    weights: &[f32],
    sums: &mut [f32],
) {
    let count = queries.len();
    let depth = sums.len() / count;
    let low = keys.visible.start - keys.start;
    assert!(weights.len() >= count * KEY_BLOCK && depth.is_multiple_of(kernels.width));
    for column in (0..depth).step_by(kernels.width) {
        let panel = panels.rows_from(kv, column, keys.visible.start);
        for first in (0..count).step_by(kernels.rows) {
            let rows = kernels.rows.min(count - first);
            let seen = keys.seen(queries.start + first + rows - 1).end.saturating_sub(low);
            assert!(panel.len() >= seen * kernels.width);
            // SAFETY: rows `first..first + rows` of `weights` and `sums`, columns within them; the panel is long enough.
            unsafe {
                let weights = weights.as_ptr().add(first * KEY_BLOCK + low);
                let sums = sums.as_mut_ptr().add(first * depth + column);
                kernels.strided[rows - 1](seen, weights, KEY_BLOCK, 1, panel.as_ptr(), sums, depth, true);
            }
        }
    }
}

/// Running maximum of a row's scores, and sum of their exponentials relative to it.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

#[inline(always)]
fn absorb_body<const FMA: bool>(
    scores: &mut [f32],
    seen: Range<usize>,
    state: &mut Running,
    sums: &mut [f32],
) {
    let (before, rest) = scores.split_at_mut(seen.start);
    let (row, after) = rest.split_at_mut(seen.len());
    before.fill(0.0);
    after.fill(0.0);
    let block_max = max(row);
    let new_max = if block_max > state.max { block_max } else { state.max };
    let sum = exp_sum::<FMA>(row, new_max);
    if new_max != state.max {
        let factor = exp::<FMA>(state.max - new_max);
        state.sum *= factor;
        for s in sums.iter_mut() {
            *s *= factor;
        }
    }
    state.sum += sum;
    state.max = new_max;
}
by_isa! {
    /// Turns a row of scores into exponentials relative to the running maximum (0 where not seen), and rescales what was
    /// summed before.
    fn absorb => absorb_body(scores: &mut [f32], seen: Range<usize>, state: &mut Running, sums: &mut [f32])
}

//! Attention backward: one task per run of connected segments and head; it adds up its own dk and dv in order, and the
//! heads of a group are added in order afterwards.

use super::forward::{add_weighted_rows, products_with_rows};
use super::panels::{Panels, Part, local, padded};
use super::{Attention, KEY_BLOCK, Keys, gather_head, key_blocks};
use crate::Segment;
use crate::isa::by_isa;
use crate::kernels::elementary::{dot, exp};
use crate::kernels::matmul::SharedMut;
use crate::kernels::micro::{Kernels, kernels};
use crate::kernels::rows::rotate;
use crate::pool::{Buffer, prepare};
use rayon::prelude::*;
use std::ops::Range;

/// Groups of kernel rows in a block of queries.
const QUERY_GROUPS: usize = 6;

/// Overwrites `d_qkv` with the gradient of the packed rows.
pub(super) fn run(call: &Attention, qkv: &[f32], out: &[f32], lse: &[f32], grad: &[f32], d_qkv: &mut [f32]) {
    let kernels = kernels();
    let shape = &call.shape;
    let (hd, heads, n) = (shape.head_dim, shape.heads, call.segments.rows());
    let depth = padded(hd, kernels.width);
    let work = Work {
        call,
        kernels,
        qkv,
        keys: Panels::columns(kernels, call, qkv, n, Part::Keys),
        key_rows: Panels::inner(kernels, call, qkv, n, Part::Keys),
        values: Panels::columns(kernels, call, qkv, n, Part::Values),
        out,
        lse,
        grad,
        n,
        depth,
    };
    // Gradients of rotated keys and of values, for every query head: [h, n, depth] each.
    let (mut dk, mut dv) = (Buffer::stale(heads * n * depth), Buffer::stale(heads * n * depth));
    let islands = call.segments.islands();
    prepare(&work.sizes());
    {
        let (dk, dv, d_qkv) = (SharedMut::new(&mut dk), SharedMut::new(&mut dv), SharedMut::new(d_qkv));
        (0..islands.len() * heads).into_par_iter().for_each(|task| {
            let (island, head) = (&islands[task / heads], task % heads);
            let rows = call.segments.rows_of(island);
            let part = |p: SharedMut| {
                // SAFETY: each task has its own head and rows of `dk` and `dv`.
                unsafe {
                    std::slice::from_raw_parts_mut(p.at((head * n + rows.start) * depth), rows.len() * depth)
                }
            };
            // SAFETY: each task writes the query columns of its own head, in its own rows.
            unsafe { work.island(island.clone(), rows.start, head, part(dk), part(dv), d_qkv) };
        });
    }
    let group = heads / shape.kv_heads;
    let width = shape.packed_width();
    d_qkv.par_chunks_mut(width).with_min_len(16).enumerate().for_each(|(row, d_qkv)| {
        for kv in 0..shape.kv_heads {
            for (from, column) in [(&dk, shape.k_column(kv)), (&dv, shape.v_column(kv))] {
                let target = &mut d_qkv[column..column + hd];
                target.fill(0.0);
                for head in kv * group..(kv + 1) * group {
                    for (t, x) in target.iter_mut().zip(&from[(head * n + row) * depth..][..hd]) {
                        *t += x;
                    }
                }
            }
            if let Some(rope) = &call.rope {
                let (cos, sin) = rope.row(row);
                rotate(&mut d_qkv[shape.k_column(kv)..][..hd], cos, sin, -1.0);
            }
        }
    });
}

struct Work<'a> {
    call: &'a Attention,
    kernels: &'a Kernels,
    qkv: &'a [f32],
    keys: Panels,
    key_rows: Panels,
    values: Panels,
    out: &'a [f32],
    lse: &'a [f32],
    grad: &'a [f32],
    n: usize,
    /// `head_dim` padded to whole panels.
    depth: usize,
}

/// Buffers of one task, for a block of `c` queries.
struct Block {
    /// Rotated and scaled queries, and the gradient of their outputs: `[c, hd]`
    q: Buffer,
    grad: Buffer,
    /// The same as panels: `[depth / width][c][width]`
    q_panels: Buffer,
    grad_panels: Buffer,
    /// Scores, then probabilities; dout v, then score gradients: `[c, KEY_BLOCK]`
    p: Buffer,
    ds: Buffer,
    /// `[c, depth]`
    dq: Buffer,
}

impl Work<'_> {
    /// Queries of a block at most.
    fn step(&self) -> usize {
        QUERY_GROUPS * self.kernels.rows
    }

    /// Sizes of the buffers of a [`Block`], in order.
    fn sizes(&self) -> [usize; 7] {
        let (hd, depth) = (self.call.shape.head_dim, self.depth);
        [hd, hd, depth, depth, KEY_BLOCK, KEY_BLOCK, depth].map(|width| self.step() * width)
    }

    /// One head of a run of connected segments whose rows begin at `base`; `dk`, `dv` `[rows, depth]`.
    ///
    /// # Safety
    /// The head's query columns of these rows in `d_qkv` must not be accessed by anyone else.
    unsafe fn island(
        &self,
        island: Range<usize>,
        base: usize,
        head: usize,
        dk: &mut [f32],
        dv: &mut [f32],
        d_qkv: SharedMut,
    ) {
        let (hd, depth, step) = (self.call.shape.head_dim, self.depth, self.step());
        dk.fill(0.0);
        dv.fill(0.0);
        let [q, grad, q_panels, grad_panels, p, ds, dq] = self.sizes().map(Buffer::stale);
        let mut block = Block { q, grad, q_panels, grad_panels, p, ds, dq };
        for segment in &self.call.segments.list()[island] {
            for start in segment.rows.clone().step_by(step) {
                let queries = start..(start + step).min(segment.rows.end);
                self.query_block(segment, &queries, head, base, &mut block, dk, dv);
                let shape = &self.call.shape;
                for (row, dq) in queries.zip(block.dq.chunks_exact(depth)) {
                    let column = row * shape.packed_width() + shape.q_column(head);
                    // SAFETY: this task's own rows and columns (caller).
                    let target = unsafe { std::slice::from_raw_parts_mut(d_qkv.at(column), hd) };
                    for (target, dq) in target.iter_mut().zip(dq) {
                        *target = dq * shape.scale();
                    }
                    if let Some(rope) = &self.call.rope {
                        let (cos, sin) = rope.row(row);
                        rotate(target, cos, sin, -1.0);
                    }
                }
            }
        }
    }

    /// Adds one block of queries to `dk` and `dv`; leaves the gradient of its scaled queries in `block.dq`.
    #[allow(clippy::too_many_arguments)]
    fn query_block(
        &self,
        segment: &Segment,
        queries: &Range<usize>,
        head: usize,
        base: usize,
        block: &mut Block,
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let (kernels, shape, depth) = (self.kernels, &self.call.shape, self.depth);
        let (hd, kv, count) = (shape.head_dim, shape.kv_of(head), queries.len());
        let (q, grad) = (&mut block.q[..count * hd], &mut block.grad[..count * hd]);
        gather_head(self.call, self.qkv, shape.q_column(head), queries.clone(), shape.scale(), q);
        let mut delta = [0.0f32; QUERY_GROUPS * crate::kernels::micro::MAX_ROWS];
        for (i, row) in queries.clone().enumerate() {
            let at = (row * shape.heads + head) * hd;
            grad[i * hd..(i + 1) * hd].copy_from_slice(&self.grad[at..at + hd]);
            delta[i] = row_dot(&self.out[at..at + hd], &self.grad[at..at + hd]);
        }
        let (q_panels, grad_panels) =
            (&mut block.q_panels[..count * depth], &mut block.grad_panels[..count * depth]);
        local(q, hd, kernels.width, q_panels);
        local(grad, hd, kernels.width, grad_panels);
        let dq = &mut block.dq[..count * depth];
        dq.fill(0.0);
        let lse = &self.lse[head * self.n + queries.start..][..count];
        let (p, ds) = (&mut block.p, &mut block.ds);
        for keys in key_blocks(segment, queries, kernels.width) {
            products_with_rows(kernels, &self.keys, kv, &keys, queries, q, hd, p);
            products_with_rows(kernels, &self.values, kv, &keys, queries, grad, hd, ds);
            for (i, (p, ds)) in
                p.chunks_exact_mut(KEY_BLOCK).zip(ds.chunks_exact_mut(KEY_BLOCK)).enumerate().take(count)
            {
                score_gradients(p, ds, keys.seen(queries.start + i), lse[i], delta[i]);
            }
            add_weighted_rows(kernels, &self.key_rows, kv, &keys, queries, ds, dq);
            let local = (keys.visible.start - base) * depth;
            add_transposed(kernels, &keys, queries, p, grad_panels, &mut dv[local..], depth);
            add_transposed(kernels, &keys, queries, ds, q_panels, &mut dk[local..], depth);
        }
    }
}

/// `out[j] += sum_i weights[i, j] x_i` for the visible keys `j`, over the queries that see them; `panels` holds the rows
/// `x` as `[depth / width][queries][width]`, `out` begins at the first visible key.
fn add_transposed(
    kernels: &Kernels,
    keys: &Keys,
    queries: &Range<usize>,
    weights: &[f32],
    panels: &[f32],
    out: &mut [f32],
    depth: usize,
) {
    let (count, width) = (queries.len(), kernels.width);
    let (low, visible) = (keys.visible.start - keys.start, keys.visible.len());
    assert!(
        weights.len() >= count * KEY_BLOCK && panels.len() >= count * depth && out.len() >= visible * depth
    );
    for first in (0..visible).step_by(kernels.rows) {
        let rows = kernels.rows.min(visible - first);
        // Queries before the first of these keys see none of them.
        let skip = if keys.causal { (keys.visible.start + first).saturating_sub(queries.start) } else { 0 };
        if skip >= count {
            break;
        }
        for column in (0..depth).step_by(width) {
            // SAFETY: `weights` is read at queries `skip..count` and columns `low + first..low + first + rows`, within
            // [`KEY_BLOCK`]; the panel holds `count` runs; `out` has `visible` rows.
            unsafe {
                let weights = weights.as_ptr().add(skip * KEY_BLOCK + low + first);
                let panel = panels.as_ptr().add(column * count + skip * width);
                let out = out.as_mut_ptr().add(first * depth + column);
                kernels.strided[rows - 1](count - skip, weights, 1, KEY_BLOCK, panel, out, depth, true);
            }
        }
    }
}

#[inline(always)]
fn row_dot_body<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    dot::<FMA>(a, b)
}
by_isa! { fn row_dot => row_dot_body(a: &[f32], b: &[f32]) -> f32 }

#[inline(always)]
fn score_gradients_body<const FMA: bool>(
    p: &mut [f32],
    ds: &mut [f32],
    seen: Range<usize>,
    lse: f32,
    delta: f32,
) {
    for row in [&mut *p, &mut *ds] {
        row[..seen.start].fill(0.0);
        row[seen.end..].fill(0.0);
    }
    for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
        let e = exp::<FMA>(*p - lse);
        *p = e;
        *ds = e * (*ds - delta);
    }
}
by_isa! {
    /// From a row of scores `p`, and of dout v in `ds`, to probabilities and score gradients; 0 where not seen.
    fn score_gradients => score_gradients_body(p: &mut [f32], ds: &mut [f32], seen: Range<usize>, lse: f32, delta: f32)
}

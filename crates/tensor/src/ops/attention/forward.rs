//! Attention forward: one task per block of queries and head.

use super::{Attention, KEY_BLOCK, QUERY_BLOCK, gather_head, key_blocks, rotated_keys};
use crate::Segment;
use crate::isa::by_isa;
use crate::kernels::elementary::{exp_sum, max};
use crate::kernels::matmul::{Into, SharedMut, Strided, product_raw};
use crate::pool::Buffer;
use rayon::prelude::*;
use std::ops::Range;

/// Fills `out [n, h hd]` and `lse [h, n]`.
pub(super) fn run(call: &Attention, qkv: &[f32], n: usize, out: &mut [f32], lse: &mut [f32]) {
    let keys = rotated_keys(call, qkv, n);
    let blocks: Vec<(&Segment, Range<usize>)> = (call.segments.list().iter())
        .flat_map(|segment| {
            let rows = segment.rows.clone();
            rows.clone()
                .step_by(QUERY_BLOCK)
                .map(move |start| (segment, start..(start + QUERY_BLOCK).min(rows.end)))
        })
        .collect();
    let heads = call.shape.heads;
    let (out, lse) = (SharedMut::new(out), SharedMut::new(lse));
    (0..blocks.len() * heads).into_par_iter().for_each(|task| {
        let (segment, queries) = &blocks[task / heads];
        // SAFETY: each task writes the rows of its own queries and the columns of its own head.
        unsafe { query_block(call, qkv, &keys, n, segment, queries, task % heads, out, lse) };
    });
}

/// One block of queries of one head against all keys it sees.
///
/// # Safety
/// The block's rows and the head's columns of `out [n, h hd]` and `lse [h, n]` must not be accessed by anyone else.
#[allow(clippy::too_many_arguments)]
unsafe fn query_block(
    call: &Attention,
    qkv: &[f32],
    keys: &[f32],
    n: usize,
    segment: &Segment,
    queries: &Range<usize>,
    head: usize,
    out: SharedMut,
    lse: SharedMut,
) {
    let shape = &call.shape;
    let (hd, width, count) = (shape.head_dim, shape.packed_width(), queries.len());
    let kv = shape.kv_of(head);
    let mut q = Buffer::stale(count * hd);
    gather_head(call, qkv, shape.q_column(head), queries.clone(), shape.scale(), &mut q);
    let mut scores = Buffer::stale(count * KEY_BLOCK);
    let mut sums = Buffer::zeroed(count * hd);
    let mut running = vec![Running { max: f32::NEG_INFINITY, sum: 0.0 }; count];
    for (block, masked) in key_blocks(segment, queries) {
        let k = Strided::rows(&keys[(kv * n + block.start) * hd..(kv * n + block.end) * hd], hd);
        let scores = &mut scores[..count * block.len()];
        // SAFETY: `scores` is a local buffer of that size.
        unsafe {
            let q = Strided::rows(&q, hd);
            product_raw(
                (count, block.len(), hd),
                q,
                k.t(),
                Into::Overwrite,
                scores.as_mut_ptr(),
                block.len(),
            );
        }
        if masked {
            mask(scores, queries, &block);
        }
        absorb(scores, &mut running, &mut sums, hd);
        let v = Strided::rows(&qkv[block.start * width + shape.v_column(kv)..], width);
        let p = Strided::rows(scores, block.len());
        // SAFETY: `sums` is a local buffer of that size.
        unsafe { product_raw((count, hd, block.len()), p, v, Into::Add, sums.as_mut_ptr(), hd) };
    }
    for (i, (row, state)) in queries.clone().zip(&running).enumerate() {
        // SAFETY: within `out` and `lse`, and this task's own part (caller).
        unsafe {
            let out = std::slice::from_raw_parts_mut(out.at(row * shape.heads * hd + head * hd), hd);
            for (out, sum) in out.iter_mut().zip(&sums[i * hd..(i + 1) * hd]) {
                *out = sum / state.sum;
            }
            *lse.at(head * n + row) = state.max + state.sum.ln();
        }
    }
}

/// Sets scores of keys after the query to negative infinity.
fn mask(scores: &mut [f32], queries: &Range<usize>, keys: &Range<usize>) {
    for (query, row) in queries.clone().zip(scores.chunks_exact_mut(keys.len())) {
        let seen = (query + 1).saturating_sub(keys.start).min(keys.len());
        row[seen..].fill(f32::NEG_INFINITY);
    }
}

/// Running maximum of a row's scores, and sum of their exponentials relative to it.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

#[inline(always)]
fn absorb_body<const FMA: bool>(scores: &mut [f32], running: &mut [Running], sums: &mut [f32], hd: usize) {
    let width = scores.len() / running.len();
    for ((row, state), sums) in scores.chunks_exact_mut(width).zip(running).zip(sums.chunks_exact_mut(hd)) {
        let block_max = max(row);
        let new_max = if block_max > state.max { block_max } else { state.max };
        let sum = exp_sum::<FMA>(row, new_max);
        if new_max != state.max {
            let factor = crate::kernels::elementary::exp::<FMA>(state.max - new_max);
            state.sum *= factor;
            for s in sums.iter_mut() {
                *s *= factor;
            }
        }
        state.sum += sum;
        state.max = new_max;
    }
}
by_isa! {
    /// Turns scores into exponentials relative to the running maximum, and rescales what was summed before.
    fn absorb => absorb_body(scores: &mut [f32], running: &mut [Running], sums: &mut [f32], hd: usize)
}

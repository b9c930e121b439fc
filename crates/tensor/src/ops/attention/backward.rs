//! Attention backward: one task per run of connected segments and head; it adds up its own dk and dv in order, and the
//! heads of a group are added in order afterwards.

use super::{Attention, KEY_BLOCK, QUERY_BLOCK, gather_head, key_blocks, rotated_keys};
use crate::isa::by_isa;
use crate::kernels::elementary::exp;
use crate::kernels::matmul::{Into, SharedMut, Strided, product_raw};
use crate::kernels::rows::rotate;
use crate::pool::Buffer;
use rayon::prelude::*;
use std::ops::Range;

/// Overwrites `d_qkv` with the gradient of the packed rows.
pub(super) fn run(call: &Attention, qkv: &[f32], out: &[f32], lse: &[f32], grad: &[f32], d_qkv: &mut [f32]) {
    let shape = &call.shape;
    let (hd, heads, n) = (shape.head_dim, shape.heads, call.segments.rows());
    let keys = rotated_keys(call, qkv, n);
    // Gradients of rotated keys and of values, for every query head: [h, n, hd] each.
    let (mut dk, mut dv) = (Buffer::stale(heads * n * hd), Buffer::stale(heads * n * hd));
    let islands = call.segments.islands();
    {
        let (dk, dv, d_qkv) = (SharedMut::new(&mut dk), SharedMut::new(&mut dv), SharedMut::new(d_qkv));
        (0..islands.len() * heads).into_par_iter().for_each(|task| {
            let (island, head) = (&islands[task / heads], task % heads);
            let rows = call.segments.rows_of(island);
            let part = |p: SharedMut| {
                // SAFETY: each task has its own head and rows of `dk` and `dv`.
                unsafe { std::slice::from_raw_parts_mut(p.at((head * n + rows.start) * hd), rows.len() * hd) }
            };
            let work = Work { call, qkv, keys: &keys, out, lse, grad, n, head };
            // SAFETY: each task writes the query columns of its own head, in its own rows.
            unsafe { work.island(island.clone(), &rows, part(dk), part(dv), d_qkv) };
        });
    }
    let group = heads / shape.kv_heads;
    let width = shape.packed_width();
    d_qkv.par_chunks_mut(width).enumerate().for_each(|(row, d_qkv)| {
        for kv in 0..shape.kv_heads {
            for (from, column) in [(&dk, shape.k_column(kv)), (&dv, shape.v_column(kv))] {
                let target = &mut d_qkv[column..column + hd];
                target.fill(0.0);
                for head in kv * group..(kv + 1) * group {
                    for (t, x) in target.iter_mut().zip(&from[(head * n + row) * hd..][..hd]) {
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
    qkv: &'a [f32],
    /// `[kv, n, hd]`, rotated
    keys: &'a [f32],
    out: &'a [f32],
    lse: &'a [f32],
    grad: &'a [f32],
    n: usize,
    head: usize,
}

impl Work<'_> {
    /// One head of a run of connected segments that cover `rows`; `dk`, `dv` `[rows, hd]`.
    ///
    /// # Safety
    /// The head's query columns of `rows` in `d_qkv` must not be accessed by anyone else.
    unsafe fn island(
        &self,
        island: Range<usize>,
        rows: &Range<usize>,
        dk: &mut [f32],
        dv: &mut [f32],
        d_qkv: SharedMut,
    ) {
        let (shape, n) = (&self.call.shape, self.n);
        let (hd, width) = (shape.head_dim, shape.packed_width());
        let kv = shape.kv_of(self.head);
        let out_width = shape.heads * hd;
        dk.fill(0.0);
        dv.fill(0.0);
        let mut q = Buffer::stale(QUERY_BLOCK * hd);
        let mut dq = Buffer::stale(QUERY_BLOCK * hd);
        let mut p = Buffer::stale(QUERY_BLOCK * KEY_BLOCK);
        let mut ds = Buffer::stale(QUERY_BLOCK * KEY_BLOCK);
        for segment in &self.call.segments.list()[island] {
            for start in segment.rows.clone().step_by(QUERY_BLOCK) {
                let queries = start..(start + QUERY_BLOCK).min(segment.rows.end);
                let count = queries.len();
                let (q, dq) = (&mut q[..count * hd], &mut dq[..count * hd]);
                gather_head(
                    self.call,
                    self.qkv,
                    shape.q_column(self.head),
                    queries.clone(),
                    shape.scale(),
                    q,
                );
                dq.fill(0.0);
                let head_rows = start * out_width + self.head * hd;
                let lse = &self.lse[self.head * n + start..][..count];
                let delta: Vec<f32> = (0..count)
                    .map(|i| {
                        let at = head_rows + i * out_width;
                        crate::kernels::dot(&self.out[at..at + hd], &self.grad[at..at + hd])
                    })
                    .collect();
                let grad = Strided::rows(&self.grad[head_rows..], out_width);
                for (keys, _) in key_blocks(segment, &queries) {
                    let (p, ds) = (&mut p[..count * keys.len()], &mut ds[..count * keys.len()]);
                    let k =
                        Strided::rows(&self.keys[(kv * n + keys.start) * hd..(kv * n + keys.end) * hd], hd);
                    let v = Strided::rows(&self.qkv[keys.start * width + shape.v_column(kv)..], width);
                    let local = (keys.start - rows.start) * hd;
                    let causal_from = if keys.start >= segment.rows.start { keys.start } else { 0 };
                    // SAFETY: all outputs are local buffers or `dk`, `dv`, of the stated sizes.
                    unsafe {
                        let (sizes, len) = ((count, keys.len(), hd), keys.len());
                        product_raw(sizes, Strided::rows(q, hd), k.t(), Into::Overwrite, p.as_mut_ptr(), len);
                        product_raw(sizes, grad, v.t(), Into::Overwrite, ds.as_mut_ptr(), len);
                        scores_backward(p, ds, lse, &delta, start - causal_from.min(start));
                        let (p, ds) = (Strided::rows(p, len), Strided::rows(ds, len));
                        let sizes = (len, hd, count);
                        product_raw(sizes, p.t(), grad, Into::Add, dv[local..].as_mut_ptr(), hd);
                        let q = Strided::rows(q, hd);
                        product_raw(sizes, ds.t(), q, Into::Add, dk[local..].as_mut_ptr(), hd);
                        product_raw((count, hd, len), ds, k, Into::Add, dq.as_mut_ptr(), hd);
                    }
                }
                for (row, dq) in queries.zip(dq.chunks_exact_mut(hd)) {
                    for x in dq.iter_mut() {
                        *x *= shape.scale();
                    }
                    if let Some(rope) = &self.call.rope {
                        let (cos, sin) = rope.row(row);
                        rotate(dq, cos, sin, -1.0);
                    }
                    // SAFETY: this task's own rows and columns (caller).
                    let target = unsafe {
                        std::slice::from_raw_parts_mut(d_qkv.at(row * width + shape.q_column(self.head)), hd)
                    };
                    target.copy_from_slice(dq);
                }
            }
        }
    }
}

#[inline(always)]
fn scores_backward_body<const FMA: bool>(
    p: &mut [f32],
    ds: &mut [f32],
    lse: &[f32],
    delta: &[f32],
    first_seen: usize,
) {
    let width = p.len() / lse.len();
    for (i, (p, ds)) in p.chunks_exact_mut(width).zip(ds.chunks_exact_mut(width)).enumerate() {
        let seen = first_seen.saturating_add(i + 1).min(width);
        for j in 0..seen {
            let e = exp::<FMA>(p[j] - lse[i]);
            p[j] = e;
            ds[j] = e * (ds[j] - delta[i]);
        }
        p[seen..].fill(0.0);
        ds[seen..].fill(0.0);
    }
}
by_isa! {
    /// From scores `p` and `dout v` in `ds` (`[rows, keys]`) to probabilities and score gradients; row `i` sees the
    /// first `first_seen + i + 1` keys.
    fn scores_backward => scores_backward_body(
        p: &mut [f32], ds: &mut [f32], lse: &[f32], delta: &[f32], first_seen: usize
    )
}

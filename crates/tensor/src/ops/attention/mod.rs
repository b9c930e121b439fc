//! Grouped-query attention over packed `[q | k | v]` rows, block by block with a running softmax (FlashAttention,
//! arXiv 2205.14135, 2307.08691). `qkv [n, (h + 2 kv) hd]`, `out [n, h hd]`, `lse [h, n]`; query head `a` uses key/value
//! head `a / (h / kv)`. With `q' = rope(q) / sqrt(hd)` and `k' = rope(k)`:
//!
//! `s_ij = q'_i k'_j` for the rows `j` that [`Segments`] lets row `i` see, `p_ij = exp(s_ij - lse_i)`,
//! `out_i = sum_j p_ij v_j`.
//!
//! Backward, with `D_i = dout_i out_i`: `dv_j = sum_i p_ij dout_i`, `ds_ij = p_ij (dout_i v_j - D_i)`,
//! `dq'_i = sum_j ds_ij k'_j`, `dk'_j = sum_i ds_ij q'_i`, rotated back.
//!
//! Blocks of keys that no row of a block sees are never touched, and no score outlives its block.

mod backward;
mod forward;
mod panels;

use crate::kernels::rows::rotate;
use crate::pool::Buffer;
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{Rope, Segment, Segments, Tape, Tensor, Var, profile};
use std::borrow::Borrow;
use std::ops::Range;
use std::sync::Arc;

/// Heads of an attention layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Values in a row of packed q, k and v.
    pub fn packed_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// First column of query head `head` in a packed row.
    fn q_column(&self, head: usize) -> usize {
        head * self.head_dim
    }

    /// First column of key head `kv` in a packed row.
    fn k_column(&self, kv: usize) -> usize {
        (self.heads + kv) * self.head_dim
    }

    /// First column of value head `kv` in a packed row.
    fn v_column(&self, kv: usize) -> usize {
        (self.heads + self.kv_heads + kv) * self.head_dim
    }

    /// Key/value head of a query head.
    fn kv_of(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// What an attention call is about, besides its input.
#[derive(Clone)]
pub struct Attention {
    /// Heads.
    pub shape: AttentionShape,
    /// Which rows see which.
    pub segments: Arc<Segments>,
    /// Rotation of queries and keys; `None` for attention without positions.
    pub rope: Option<Rope>,
}

/// Keys of one block, at most.
const KEY_BLOCK: usize = 128;

/// A block of keys on the grid of packed panels, and what a block of queries sees of it.
struct Keys {
    /// First row; a multiple of the panel width.
    start: usize,
    /// The rows of the block that belong to what the queries see.
    visible: Range<usize>,
    /// Whether query `i` sees only rows up to `i`.
    causal: bool,
}

impl Keys {
    /// What row `query` sees, relative to `start`.
    fn seen(&self, query: usize) -> Range<usize> {
        let end = if self.causal { self.visible.end.min(query + 1) } else { self.visible.end };
        let low = self.visible.start - self.start;
        low..end.saturating_sub(self.start).max(low)
    }
}

/// Blocks of keys that rows `queries` of a segment see, in order.
fn key_blocks(segment: &Segment, queries: &Range<usize>, width: usize) -> Vec<Keys> {
    let own = segment.rows.start..queries.end;
    let mut blocks = Vec::new();
    for (rows, causal) in [(segment.prefix.clone(), false), (own, true)] {
        for start in (rows.start / width * width..rows.end).step_by(KEY_BLOCK) {
            let visible = rows.start.max(start)..rows.end.min(start + KEY_BLOCK);
            blocks.push(Keys { start, visible, causal });
        }
    }
    blocks
}

/// Copies `head_dim` columns of rows into `out`, rotated and scaled.
fn gather_head(
    call: &Attention,
    qkv: &[f32],
    column: usize,
    rows: Range<usize>,
    scale: f32,
    out: &mut [f32],
) {
    let (width, hd) = (call.shape.packed_width(), call.shape.head_dim);
    for (row, out) in rows.zip(out.chunks_exact_mut(hd)) {
        let from = row * width + column;
        for (o, x) in out.iter_mut().zip(&qkv[from..from + hd]) {
            *o = x * scale;
        }
        if let Some(rope) = &call.rope {
            let (cos, sin) = rope.row(row);
            rotate(out, cos, sin, 1.0);
        }
    }
}

struct Attended {
    qkv_slot: Slot,
    call: Attention,
    qkv: Tensor,
    out: Tensor,
    lse: Buffer,
}

impl Tape<'_> {
    /// Attention of packed rows `[q heads | k heads | v heads]`: `qkv [n, (h + 2 kv) hd]` to `[n, h hd]`. Rotation of q
    /// and k happens inside. Panics if the shapes, segments or positions do not fit.
    pub fn attention(&mut self, qkv: impl Borrow<Var>, call: &Attention) -> Var {
        let qkv = qkv.borrow();
        let shape = call.shape;
        let n = qkv.rows();
        assert!(
            shape.kv_heads > 0 && shape.heads.is_multiple_of(shape.kv_heads) && shape.head_dim > 0,
            "attention: {} query heads cannot share {} key/value heads",
            shape.heads,
            shape.kv_heads
        );
        assert_eq!(qkv.width(), shape.packed_width(), "attention: width of qkv for {shape:?}");
        assert_eq!(call.segments.rows(), n, "attention: rows covered by the segments");
        if let Some(rope) = &call.rope {
            assert_eq!(rope.rows(), n, "attention: rows with positions");
            assert_eq!(rope.head_dim(), shape.head_dim, "attention: head_dim of the RoPE table");
        }
        let _span = profile::span("attention");
        if let Some(on) = self.params().on_card() {
            return self.attention_on_card(on, qkv, call);
        }
        let mut out = Tensor::stale(&[n, shape.heads * shape.head_dim]);
        let mut lse = Buffer::stale(shape.heads * n);
        forward::run(call, qkv.value().as_slice(), n, out.make_mut(), &mut lse);
        let qkv_slot = self.slot(qkv);
        self.push(out.clone(), || Attended {
            qkv_slot,
            call: call.clone(),
            qkv: qkv.value().clone(),
            out,
            lse,
        })
    }
}

impl Backward for Attended {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let mut d_qkv = Tensor::stale(self.qkv.shape());
        backward::run(
            &self.call,
            self.qkv.as_slice(),
            self.out.as_slice(),
            &self.lse,
            grad.as_slice(),
            d_qkv.make_mut(),
        );
        flow.give(self.qkv_slot, d_qkv);
    }
}

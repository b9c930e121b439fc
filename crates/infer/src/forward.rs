//! The forward pass over a batch of rows of many sequences, through the paged cache.
//!
//! Rows of prompts and of running answers stand side by side. Each row is computed by operations whose order
//! depends only on that row and its own past, so it has the same bits in any batch (see [`crate::kernels`]).

use crate::cache::{KvCache, PAGE, PageId};
use crate::kernels::{self, AttentionTask};
use crate::weights::{Layer, Weights};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Rows of one sequence that share one pass over its pages.
const QUERY_ROWS: usize = 8;

/// Consecutive positions of one sequence in a batch.
pub(crate) struct Span<'a> {
    /// Rows of the batch.
    pub rows: Range<usize>,
    /// Position of the first row in its sequence; all positions before it are in the cache.
    pub start: usize,
    /// Pages with room for all rows.
    pub pages: &'a [PageId],
}

/// Computes the rows, puts their keys and values into the cache, and returns the logits [wanted, vocab] of the
/// wanted rows.
pub(crate) fn forward(
    weights: &Weights,
    cache: &mut KvCache,
    tokens: &[u32],
    spans: &[Span<'_>],
    wanted: &[usize],
) -> Vec<f32> {
    let last = hidden(weights, cache, tokens, spans, wanted);
    let mut logits = vec![0.0; wanted.len() * weights.sizes.vocab];
    weights.head.multiply(weights.isa, &last, &mut logits);
    logits
}

/// As [`forward`], but returns the hidden states [wanted, hidden] after the final norm.
pub(crate) fn hidden(
    weights: &Weights,
    cache: &mut KvCache,
    tokens: &[u32],
    spans: &[Span<'_>],
    wanted: &[usize],
) -> Vec<f32> {
    let (sizes, isa, n) = (weights.sizes, weights.isa, tokens.len());
    let mut x = vec![0.0; n * sizes.hidden];
    for (row, &token) in x.chunks_exact_mut(sizes.hidden).zip(tokens) {
        weights.embed.copy_row(token as usize, row);
    }
    let mut scratch = Scratch::new(weights, n);
    for (index, layer) in weights.layers.iter().enumerate() {
        attention_block(weights, cache, (index, layer), spans, &mut x, &mut scratch);
        kernels::rms_norm(isa, &x, &layer.ffn_norm, sizes.eps, &mut scratch.normed);
        layer.gate_up.multiply(isa, &scratch.normed, &mut scratch.gate_up);
        kernels::swiglu(isa, &scratch.gate_up, sizes.ffn, &mut scratch.gated);
        layer.down.multiply(isa, &scratch.gated, &mut scratch.normed);
        add(&mut x, &scratch.normed);
    }
    let mut last = Vec::with_capacity(wanted.len() * sizes.hidden);
    for &row in wanted {
        last.extend_from_slice(&x[row * sizes.hidden..(row + 1) * sizes.hidden]);
    }
    let mut normed = vec![0.0; last.len()];
    kernels::rms_norm(isa, &last, &weights.norm, sizes.eps, &mut normed);
    normed
}

/// Buffers of one pass, reused by all layers.
struct Scratch {
    /// [n, hidden]
    normed: Vec<f32>,
    /// [n, (heads + 2 kv_heads) head_dim]
    qkv: Vec<f32>,
    /// [n, heads head_dim]
    mixed: Vec<f32>,
    /// [n, 2 ffn]
    gate_up: Vec<f32>,
    /// [n, ffn]
    gated: Vec<f32>,
}

impl Scratch {
    fn new(weights: &Weights, n: usize) -> Self {
        let s = weights.sizes;
        Self {
            normed: vec![0.0; n * s.hidden],
            qkv: vec![0.0; n * (s.heads + 2 * s.kv_heads) * s.head_dim],
            mixed: vec![0.0; n * s.heads * s.head_dim],
            gate_up: vec![0.0; n * 2 * s.ffn],
            gated: vec![0.0; n * s.ffn],
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Rotates the heads of one row: dimension i pairs with i + half (Hugging Face's layout, arXiv 2104.09864).
fn rotate(heads: &mut [f32], (cos, sin): (&[f32], &[f32])) {
    let half = cos.len();
    for head in heads.chunks_exact_mut(2 * half) {
        let (low, high) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (low[i], high[i]);
            low[i] = a * cos[i] - b * sin[i];
            high[i] = b * cos[i] + a * sin[i];
        }
    }
}

thread_local! {
    /// Scores and outputs of one attention task.
    static ATTENTION_SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// `x += output(attention(norm(x)))`; writes the rows' keys and values first.
fn attention_block(
    weights: &Weights,
    cache: &mut KvCache,
    (index, layer): (usize, &Layer),
    spans: &[Span<'_>],
    x: &mut [f32],
    scratch: &mut Scratch,
) {
    let (s, isa) = (weights.sizes, weights.isa);
    let (q_size, kv_size) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let row_size = q_size + 2 * kv_size;
    kernels::rms_norm(isa, x, &layer.attn_norm, s.eps, &mut scratch.normed);
    layer.qkv.multiply(isa, &scratch.normed, &mut scratch.qkv);
    for span in spans {
        for (row, position) in span.rows.clone().zip(span.start..) {
            let qkv = &mut scratch.qkv[row * row_size..(row + 1) * row_size];
            rotate(&mut qkv[..q_size + kv_size], weights.rope.row(position));
            let (key, value) = qkv[q_size..].split_at(kv_size);
            cache.write(span.pages, position, index, key, value);
        }
    }
    let cache = &*cache;
    let qkv = &scratch.qkv;
    // Rows of one sequence in groups of QUERY_ROWS, each with its part of the output.
    let mut groups = Vec::new();
    let mut rest = scratch.mixed.as_mut_slice();
    for span in spans {
        let mut row = span.rows.start;
        while row < span.rows.end {
            let end = (row + QUERY_ROWS).min(span.rows.end);
            let (out, after) = rest.split_at_mut((end - row) * q_size);
            rest = after;
            groups.push((span, row..end, out));
            row = end;
        }
    }
    groups.into_par_iter().for_each(|(span, rows, out)| {
        let first = span.start + rows.start - span.rows.start;
        let group = s.heads / s.kv_heads;
        let pages = &span.pages[..(first + rows.len()).div_ceil(PAGE)];
        let visible: Vec<usize> = (0..rows.len()).flat_map(|r| vec![first + r + 1; group]).collect();
        for kv_head in 0..s.kv_heads {
            let (keys, values): (Vec<&[f32]>, Vec<&[f32]>) =
                pages.iter().map(|&page| cache.read(page, index, kv_head)).unzip();
            let head_of = |i: usize| (rows.start + i / group, kv_head * group + i % group);
            let queries: Vec<&[f32]> = (0..rows.len() * group)
                .map(|i| {
                    let (row, head) = head_of(i);
                    &qkv[row * row_size + head * s.head_dim..][..s.head_dim]
                })
                .collect();
            let value_stride = cache.shape().value_stride();
            let task = AttentionTask {
                queries: &queries,
                visible: &visible,
                keys: &keys,
                values: &values,
                value_stride,
                scale: 1.0 / (s.head_dim as f32).sqrt(),
            };
            ATTENTION_SCRATCH.with_borrow_mut(|(scores, mixed)| {
                mixed.resize(queries.len() * value_stride, 0.0);
                kernels::attention(isa, task, scores, mixed);
                for (i, mixed) in mixed.chunks_exact(value_stride).enumerate() {
                    let (row, head) = head_of(i);
                    let at = (row - rows.start) * q_size + head * s.head_dim;
                    out[at..at + s.head_dim].copy_from_slice(&mixed[..s.head_dim]);
                }
            });
        }
    });
    layer.output.multiply(isa, &scratch.mixed, &mut scratch.normed);
    add(x, &scratch.normed);
}

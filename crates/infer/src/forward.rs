//! The forward pass over a batch of rows of many sequences, through the paged cache.
//!
//! Rows of prompts and of running answers stand side by side. Each row is computed by operations whose order
//! depends only on that row and its own past, so it has the same bits in any batch (see [`crate::kernels`]).

use crate::cache::{KvCache, PAGE, PageId};
use crate::kernels::{self, Activations, AttentionTask};
use crate::team::Team;
use crate::weights::{Layer, Weights};
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
    team: &Team,
    cache: &mut KvCache,
    tokens: &[u32],
    spans: &[Span<'_>],
    wanted: &[usize],
) -> Vec<f32> {
    let last = hidden(weights, team, cache, tokens, spans, wanted);
    let mut logits = vec![0.0; wanted.len() * weights.sizes.vocab];
    weights.head.multiply(weights.isa, team, &last, &mut Activations::default(), &mut logits);
    logits
}

/// As [`forward`], but returns the hidden states [wanted, hidden] after the final norm.
pub(crate) fn hidden(
    weights: &Weights,
    team: &Team,
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
        attention_block(weights, team, cache, (index, layer), spans, &mut x, &mut scratch);
        let s = &mut scratch;
        kernels::rms_norm(isa, team, &x, &layer.ffn_norm, sizes.eps, &mut s.normed);
        layer.gate_up.multiply(isa, team, &s.normed, &mut s.bytes, &mut s.gate_up);
        kernels::swiglu(isa, team, &s.gate_up, sizes.ffn, &mut s.gated);
        layer.down.multiply(isa, team, &s.gated, &mut s.bytes, &mut s.normed);
        add(&mut x, &s.normed);
    }
    let mut last = Vec::with_capacity(wanted.len() * sizes.hidden);
    for &row in wanted {
        last.extend_from_slice(&x[row * sizes.hidden..(row + 1) * sizes.hidden]);
    }
    let mut normed = vec![0.0; last.len()];
    kernels::rms_norm(isa, team, &last, &weights.norm, sizes.eps, &mut normed);
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
    /// What a quantised matrix is multiplied with.
    bytes: Activations,
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
            bytes: Activations::default(),
        }
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// Adds a bias, if there is one, to every row.
fn add_bias(rows: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        rows.chunks_exact_mut(bias.len()).for_each(|row| add(row, bias));
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
    team: &Team,
    cache: &mut KvCache,
    (index, layer): (usize, &Layer),
    spans: &[Span<'_>],
    x: &mut [f32],
    scratch: &mut Scratch,
) {
    let (s, isa) = (weights.sizes, weights.isa);
    let (q_size, kv_size) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let row_size = q_size + 2 * kv_size;
    kernels::rms_norm(isa, team, x, &layer.attn_norm, s.eps, &mut scratch.normed);
    layer.qkv.multiply(isa, team, &scratch.normed, &mut scratch.bytes, &mut scratch.qkv);
    add_bias(&mut scratch.qkv, &layer.qkv_bias);
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
    // A unit of work is QUERY_ROWS rows of one sequence and one key/value head.
    let mut groups = Vec::new();
    for span in spans {
        for first in span.rows.clone().step_by(QUERY_ROWS) {
            groups.push((span, first..(first + QUERY_ROWS).min(span.rows.end)));
        }
    }
    let mixed = kernels::SharedOut::new(&mut scratch.mixed);
    let group = s.heads / s.kv_heads;
    team.run(groups.len() * s.kv_heads, |unit| {
        let (span, rows) = &groups[groups.len() - 1 - unit / s.kv_heads];
        let kv_head = unit % s.kv_heads;
        let first = span.start + rows.start - span.rows.start;
        let pages = &span.pages[..(first + rows.len()).div_ceil(PAGE)];
        let visible: Vec<usize> = (0..rows.len() * group).map(|i| first + i / group + 1).collect();
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
        ATTENTION_SCRATCH.with_borrow_mut(|(scores, out)| {
            out.resize(queries.len() * value_stride, 0.0);
            kernels::attention(isa, task, scores, out);
            for (i, out) in out.chunks_exact(value_stride).enumerate() {
                let (row, head) = head_of(i);
                // SAFETY: row and head lie in `mixed`, and no other unit has them.
                unsafe { mixed.write(row * q_size + head * s.head_dim, &out[..s.head_dim]) };
            }
        });
    });
    layer.output.multiply(isa, team, &scratch.mixed, &mut scratch.bytes, &mut scratch.normed);
    add_bias(&mut scratch.normed, &layer.output_bias);
    add(x, &scratch.normed);
}

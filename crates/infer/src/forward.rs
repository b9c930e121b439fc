//! The forward pass over a batch of rows of many sequences, through the paged cache.
//!
//! Rows of prompts and of running answers stand side by side. Each row is computed by operations whose order
//! depends only on that row and its own past, so it has the same bits in any batch (see [`crate::kernels`]).

mod attend;

use crate::cache::{HostPages, PAGE, PageId};
use crate::kernels::{self, Activations, Isa, SharedOut};
use crate::team::Team;
use crate::weights::{Layer, Matrix, Weights};
use attend::attend;
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

/// What one pass computes.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    /// The token of each row.
    pub tokens: &'a [u32],
    /// Whose rows they are; every row is in one.
    pub spans: &'a [Span<'a>],
    /// Rows whose logits or hidden states are asked for.
    pub wanted: &'a [usize],
}

/// Computes the rows, puts their keys and values into the cache, and returns the logits [wanted, vocab] of the
/// wanted rows.
pub(crate) fn forward(weights: &Weights, team: &Team, cache: &mut HostPages, input: Input<'_>) -> Vec<f32> {
    let last = hidden(weights, team, cache, input);
    let mut logits = vec![0.0; input.wanted.len() * weights.sizes.vocab];
    weights.head.multiply_finely(weights.isa, team, &last, &mut Activations::new(weights.exact), &mut logits);
    if let Some(first) = weights.layers.first() {
        first.qkv.soon(team, input.wanted.len());
    }
    logits
}

/// As [`forward`], but returns the hidden states [wanted, hidden] after the final norm.
pub(crate) fn hidden(
    weights: &Weights,
    team: &Team,
    cache: &mut HostPages,
    Input { tokens, spans, wanted }: Input<'_>,
) -> Vec<f32> {
    weights.before_pass(team);
    let (sizes, isa, n) = (weights.sizes, weights.isa, tokens.len());
    let mut x = vec![0.0; n * sizes.hidden];
    let rows = SharedOut::new(&mut x);
    team.rows(n, sizes.hidden * 8, |row| {
        // SAFETY: a row of its own, inside `x`.
        let out = unsafe { rows.slice(row * sizes.hidden, sizes.hidden) };
        weights.embed.copy_row(tokens[row] as usize, out);
    });
    let mut scratch = Scratch::new(weights, n);
    for (index, layer) in weights.layers.iter().enumerate() {
        let multiply = multiplication(weights, index);
        attention(weights, team, cache, (index, layer), spans, &x, &mut scratch);
        if index + 1 == weights.layers.len() {
            // From here on a row is of use only to itself.
            x = gather(&x, sizes.hidden, wanted);
            scratch.keep(weights, wanted);
        }
        let s = &mut scratch;
        multiply(&layer.output, isa, team, &s.mixed, &mut s.activations, &mut s.normed);
        layer.gate_up.soon(team, s.rows);
        add_bias(&mut s.normed, &layer.output_bias);
        add(team, &mut x, &s.normed);
        kernels::rms_norm(isa, team, &x, &layer.ffn_norm, sizes.eps, &mut s.normed);
        multiply(&layer.gate_up, isa, team, &s.normed, &mut s.activations, &mut s.gate_up);
        layer.down.soon(team, s.rows);
        kernels::swiglu(isa, team, &s.gate_up, sizes.ffn, &mut s.gated);
        multiply(&layer.down, isa, team, &s.gated, &mut s.activations, &mut s.normed);
        add(team, &mut x, &s.normed);
    }
    weights.head.soon(team, wanted.len());
    let mut normed = vec![0.0; x.len()];
    kernels::rms_norm(isa, team, &x, &weights.norm, sizes.eps, &mut normed);
    normed
}

/// Some rows of [n, width].
fn gather(all: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|&row| &all[row * width..(row + 1) * width]).copied().collect()
}

/// A way to multiply with a matrix.
type Multiply = fn(&Matrix, Isa, &Team, &[f32], &mut Activations, &mut [f32]);

/// How matrices of a block are multiplied with. Quantised ones of the last block take activations of 16 bits: without,
/// perplexity is a twentieth to a tenth of a percent higher (`bench/infer/accuracy.py`).
fn multiplication(weights: &Weights, layer: usize) -> Multiply {
    let last = layer + 1 == weights.layers.len();
    if last && weights.layers[layer].down.is_quantised() { Matrix::multiply_finely } else { Matrix::multiply }
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
    /// What matrices that are not floats are multiplied with.
    activations: Activations,
    /// n
    rows: usize,
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
            activations: Activations::new(weights.exact),
            rows: n,
        }
    }

    /// Goes on with some of the rows alone: what attention gave them, and room for them.
    fn keep(&mut self, weights: &Weights, rows: &[usize]) {
        let s = weights.sizes;
        self.rows = rows.len();
        self.mixed = gather(&self.mixed, s.heads * s.head_dim, rows);
        self.normed.truncate(rows.len() * s.hidden);
        self.gate_up.truncate(rows.len() * 2 * s.ffn);
        self.gated.truncate(rows.len() * s.ffn);
    }
}

fn add(team: &Team, x: &mut [f32], y: &[f32]) {
    const PIECE: usize = 16_384;
    let out = SharedOut::new(x);
    team.run(y.len().div_ceil(PIECE), |unit| {
        let y = &y[unit * PIECE..y.len().min((unit + 1) * PIECE)];
        // SAFETY: pieces do not overlap, and `x` is as long as `y`.
        let x = unsafe { out.slice(unit * PIECE, y.len()) };
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    });
}

/// Adds a bias, if there is one, to every row.
fn add_bias(rows: &mut [f32], bias: &[f32]) {
    if !bias.is_empty() {
        let add = |row: &mut [f32]| row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
        rows.chunks_exact_mut(bias.len()).for_each(add);
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

/// What attention gives to `norm(x)`, into `scratch.mixed`; writes the rows' keys and values first.
fn attention(
    weights: &Weights,
    team: &Team,
    cache: &mut HostPages,
    (index, layer): (usize, &Layer),
    spans: &[Span<'_>],
    x: &[f32],
    scratch: &mut Scratch,
) {
    let (s, isa) = (weights.sizes, weights.isa);
    layer.qkv.soon(team, scratch.rows);
    kernels::rms_norm(isa, team, x, &layer.attn_norm, s.eps, &mut scratch.normed);
    let multiply = multiplication(weights, index);
    multiply(&layer.qkv, isa, team, &scratch.normed, &mut scratch.activations, &mut scratch.qkv);
    add_bias(&mut scratch.qkv, &layer.qkv_bias);
    layer.output.soon(team, scratch.rows);
    remember(weights, team, cache, index, spans, &mut scratch.qkv);
    attend(weights, team, &*cache, index, spans, &scratch.qkv, &mut scratch.mixed);
}

/// Rotates queries and keys of all rows, and puts keys and values into the cache: a page is a unit of work.
fn remember(
    weights: &Weights,
    team: &Team,
    cache: &mut HostPages,
    layer: usize,
    spans: &[Span<'_>],
    qkv: &mut [f32],
) {
    let s = weights.sizes;
    let (q_size, kv_size) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let (row_size, shape) = (q_size + 2 * kv_size, cache.shape());
    let mut units = Vec::new();
    for span in spans {
        let (mut row, mut position) = (span.rows.start, span.start);
        while row < span.rows.end {
            let count = (PAGE - position % PAGE).min(span.rows.end - row);
            let page = SharedOut::new(cache.page_mut(span.pages[position / PAGE]));
            units.push((row..row + count, position, page));
            (row, position) = (row + count, position + count);
        }
    }
    let qkv = SharedOut::new(qkv);
    team.run(units.len(), |unit| {
        let (rows, first, page) = &units[unit];
        // SAFETY: pages that are written belong to one sequence, and a unit has all rows of its page.
        let page = unsafe { page.slice(0, shape.page_bytes()) };
        for (row, position) in rows.clone().zip(*first..) {
            // SAFETY: a row of this unit alone, inside `qkv`.
            let qkv = unsafe { qkv.slice(row * row_size, row_size) };
            rotate(&mut qkv[..q_size + kv_size], weights.rope.row(position));
            let (key, value) = qkv[q_size..].split_at(kv_size);
            shape.put(page, position % PAGE, layer, key, value);
        }
    });
}

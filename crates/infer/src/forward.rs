//! The forward pass over a batch of rows of many sequences, through the paged cache.
//!
//! Rows of prompts and of running answers stand side by side. Each row is computed by operations whose order
//! depends only on that row and its own past, so it has the same bits in any batch (see [`crate::kernels`]).

use crate::cache::{KvCache, PAGE, PageId};
use crate::kernels::{self, Activations, AttentionTask, STRETCH, STRETCH_PAGES, SharedOut, Taken};
use crate::team::Team;
use crate::weights::{Layer, Weights};
use std::cell::RefCell;
use std::ops::Range;

/// Rows of one sequence that share one pass over its pages.
const QUERY_ROWS: usize = 8;
/// From so many groups of rows on, they alone keep all threads busy.
const MANY_GROUPS: usize = 32;

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
    attend(weights, team, &*cache, index, spans, &scratch.qkv, &mut scratch.mixed);
    layer.output.multiply(isa, team, &scratch.mixed, &mut scratch.bytes, &mut scratch.normed);
    add_bias(&mut scratch.normed, &layer.output_bias);
    add(x, &scratch.normed);
}

/// Rows of one sequence and one key/value head that go through the past together.
struct Group<'a> {
    pages: &'a [PageId],
    /// Rows of the batch.
    rows: Range<usize>,
    /// Position of the first row.
    position: usize,
    kv_head: usize,
}

thread_local! {
    /// Scores, and what one stretch gives.
    static SCRATCH: RefCell<(Vec<f32>, Vec<Taken>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new(), Vec::new())) };
}

/// `mixed[row] = attention(row)` for all heads; keys and values of the rows are in the cache.
///
/// If there are many groups, each thread takes whole ones. If there are few, as when one answer is written after a
/// long text, the stretches of their past are shared between the threads as well.
fn attend(
    weights: &Weights,
    team: &Team,
    cache: &KvCache,
    layer: usize,
    spans: &[Span<'_>],
    qkv: &[f32],
    mixed: &mut [f32],
) {
    let (s, isa) = (weights.sizes, weights.isa);
    let shape = cache.shape().head;
    let (group, stride) = (s.heads / s.kv_heads, shape.value_stride());
    let (q_size, row_size) = (s.heads * s.head_dim, (s.heads + 2 * s.kv_heads) * s.head_dim);
    let mut groups = Vec::new();
    for span in spans {
        for first in span.rows.clone().step_by(QUERY_ROWS) {
            let rows = first..(first + QUERY_ROWS).min(span.rows.end);
            let position = span.start + first - span.rows.start;
            groups.extend((0..s.kv_heads).map(|kv_head| Group {
                pages: span.pages,
                rows: rows.clone(),
                position,
                kv_head,
            }));
        }
    }
    // The longest first, so that no thread is left with one at the end.
    groups.reverse();
    let stretches = |g: &Group<'_>| (g.position + g.rows.len()).div_ceil(STRETCH);
    let queries = |g: &Group<'_>| g.rows.len() * group;
    // What the queries of a group take from one stretch.
    let stretch =
        |g: &Group<'_>, number: usize, scores: &mut Vec<f32>, taken: &mut [Taken], values: &mut [f32]| {
            let first = number * STRETCH_PAGES;
            let last = (g.position + g.rows.len()).div_ceil(PAGE).min(first + STRETCH_PAGES);
            let pages = g.pages[first..last].iter().map(|&page| cache.read(page, layer, g.kv_head));
            let pages: Vec<&[u8]> = pages.collect();
            let (mut vectors, mut visible) = (Vec::with_capacity(queries(g)), Vec::with_capacity(queries(g)));
            for (row, position) in g.rows.clone().zip(g.position..) {
                let heads = &qkv[row * row_size + g.kv_head * group * s.head_dim..];
                vectors.extend(heads.chunks_exact(s.head_dim).take(group));
                let seen = (position + 1).saturating_sub(number * STRETCH).min(STRETCH);
                visible.extend(std::iter::repeat_n(seen, group));
            }
            let scale = 1.0 / (s.head_dim as f32).sqrt();
            let task = AttentionTask { queries: &vectors, visible: &visible, pages: &pages, shape, scale };
            kernels::attention(isa, task, scores, taken, values);
        };
    let mixed = SharedOut::new(mixed);
    let write = |g: &Group<'_>, taken: &[Taken], values: &[f32]| {
        let mut out = vec![0.0; s.head_dim];
        for (i, (taken, values)) in taken.iter().zip(values.chunks_exact(stride)).enumerate() {
            kernels::finish(*taken, values, &mut out);
            let (row, head) = (g.rows.start + i / group, g.kv_head * group + i % group);
            // SAFETY: row and head lie in `mixed`, and no other group has them.
            unsafe { mixed.write(row * q_size + head * s.head_dim, &out) };
        }
    };
    if groups.len() >= MANY_GROUPS || groups.iter().all(|g| stretches(g) == 1) {
        team.run(groups.len(), |unit| {
            let g = &groups[unit];
            SCRATCH.with_borrow_mut(|(scores, taken, values)| {
                let n = queries(g);
                taken.resize(2 * n, Taken::NOTHING);
                values.resize(2 * n * stride, 0.0);
                let ((taken, next), (values, more)) =
                    (taken.split_at_mut(n), values.split_at_mut(n * stride));
                stretch(g, 0, scores, taken, values);
                for number in 1..stretches(g) {
                    stretch(g, number, scores, next, more);
                    for (i, (values, more)) in values.chunks_mut(stride).zip(more.chunks(stride)).enumerate()
                    {
                        kernels::merge(isa, &mut taken[i], values, next[i], more);
                    }
                }
                write(g, taken, values);
            });
        });
        return;
    }
    let units: Vec<(usize, usize)> = groups
        .iter()
        .enumerate()
        .flat_map(|(i, g)| (0..stretches(g)).map(move |number| (i, number)))
        .collect();
    let most = groups.iter().map(queries).max().unwrap_or(0);
    let mut all_taken = vec![Taken::NOTHING; units.len() * most];
    let mut all_values = vec![0.0; units.len() * most * stride];
    let (to_taken, to_values) = (SharedOut::new(&mut all_taken), SharedOut::new(&mut all_values));
    team.run(units.len(), |unit| {
        let g = &groups[units[unit].0];
        SCRATCH.with_borrow_mut(|(scores, taken, values)| {
            let n = queries(g);
            taken.resize(n.max(taken.len()), Taken::NOTHING);
            values.resize(values.len().max(n * stride), 0.0);
            stretch(g, units[unit].1, scores, &mut taken[..n], &mut values[..n * stride]);
            // SAFETY: each unit has its own place.
            unsafe {
                to_taken.write(unit * most, &taken[..n]);
                to_values.write(unit * most * stride, &values[..n * stride]);
            }
        });
    });
    // In order of the stretches, which stand in order in `units`.
    for unit in 0..units.len() {
        let (index, number) = units[unit];
        let g = &groups[index];
        let first = unit - number;
        if number > 0 {
            let (taken, next) = all_taken.split_at_mut(unit * most);
            let (values, more) = all_values.split_at_mut(unit * most * stride);
            let values = values[first * most * stride..].chunks_mut(stride);
            for (i, (values, more)) in values.zip(more.chunks(stride)).take(queries(g)).enumerate() {
                kernels::merge(isa, &mut taken[first * most + i], values, next[i], more);
            }
        }
        if number + 1 == stretches(g) {
            let n = queries(g);
            write(g, &all_taken[first * most..][..n], &all_values[first * most * stride..][..n * stride]);
        }
    }
}

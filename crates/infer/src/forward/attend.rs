//! Attention of a whole batch: which thread takes which rows and which part of the past.

use super::{QUERY_ROWS, Span};
use crate::cache::{HostPages, PAGE, PageId};
use crate::kernels::{self, AttentionTask, STRETCH, STRETCH_PAGES, SharedOut, Taken};
use crate::team::Team;
use crate::weights::Weights;
use std::cell::RefCell;
use std::ops::Range;

/// From so many groups of rows on, they alone keep all threads busy.
const MANY_GROUPS: usize = 32;

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
pub(super) fn attend(
    weights: &Weights,
    team: &Team,
    cache: &HostPages,
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
    for (unit, &(index, number)) in units.iter().enumerate() {
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

//! What AdamW does to the parameters and their moments in a step, piece by piece on all threads.

use crate::moments::Pair;
use herd_tensor::kernels::{AdamWRule, Moment, adamw, sum_of_squares};
use herd_tensor::{Complete, Grads, ParamSpec, Params, Rows, profile};
use rayon::prelude::*;
use std::ops::Range;

/// Values per unit of parallel work, about. Fixed, so that sums are the same bits for any number of threads.
const CHUNK: usize = 1 << 15;

/// The numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub rule: AdamWRule,
    /// Factor of weight decay.
    pub keep: f32,
    pub noise: u32,
}

/// Records the rows of a parameter that have a gradient now.
fn meet<T: Moment>(met: &mut Rows, rows: &Rows, moments: &Pair<T>, range: Range<usize>) {
    if rows.is_all() && !met.is_all() {
        moments.first.expect_writes(range.clone());
        moments.second.expect_writes(range);
    }
    met.extend(rows);
}

/// One update of everything, for moments of one type.
pub(crate) fn update<T: Moment>(
    step: Step,
    params: &mut Params,
    grads: &mut Grads,
    moments: &mut Pair<T>,
    met: &mut [Rows],
) {
    let (mut g, rows) = grads.parts_mut();
    for ((met, rows), id) in met.iter_mut().zip(rows).zip(params.ids()) {
        meet(met, rows, moments, params.range(id));
        rows.clear();
    }
    let pieces: Vec<_> = (params.specs().iter().zip(params.ids()))
        .flat_map(|(spec, id)| {
            let start = params.range(id).start;
            pieces(spec).map(move |piece| (id.index(), start, piece))
        })
        .collect();
    let (mut w, mut m, mut v) = (params.flat_mut(), &mut moments.first[..], &mut moments.second[..]);
    let work: Vec<_> = (pieces.into_iter())
        .filter_map(|(param, start, piece)| {
            let n = piece.rows.len() * piece.width;
            let slices =
                (w.split_off_mut(..n)?, g.split_off_mut(..n)?, m.split_off_mut(..n)?, v.split_off_mut(..n)?);
            Some((param, start, piece, slices))
        })
        .collect();
    work.into_par_iter().for_each(|(param, start, piece, (w, g, m, v))| {
        piece.update(step, start, &met[param], w, g, m, v);
        for (values, _) in piece.stretches(&met[param]).filter(|(_, met)| *met) {
            g[values].fill(0.0);
        }
    });
}

/// The update of one parameter, which begins at `start` among all, with the sums of squares of its gradient.
pub(crate) fn update_one<T: Moment>(
    step: Step,
    spec: &ParamSpec,
    start: usize,
    complete: Complete<'_>,
    moments: &mut Pair<T>,
    met: &mut Rows,
    sums: &mut [f64],
) {
    let _span = profile::span("adamw");
    let Complete { weights, gradient, rows, .. } = complete;
    let range = start..start + weights.len();
    meet(met, rows, moments, range.clone());
    let (mut m, mut v) = (&mut moments.first[range.clone()], &mut moments.second[range]);
    let (mut w, mut g) = (weights, gradient);
    let work: Vec<_> = (pieces(spec).zip(sums))
        .filter_map(|(piece, sum)| {
            let n = piece.rows.len() * piece.width;
            let slices =
                (w.split_off_mut(..n)?, g.split_off(..n)?, m.split_off_mut(..n)?, v.split_off_mut(..n)?);
            Some((piece, sum, slices))
        })
        .collect();
    work.into_par_iter().for_each(|(piece, sum, (w, g, m, v))| {
        *sum = piece.sum_of_squares(rows, g);
        piece.update(step, start, met, w, g, m, v);
    });
}

/// A run of whole rows of one parameter: a unit of parallel work.
pub(crate) struct Piece {
    rows: Range<usize>,
    width: usize,
    decay: bool,
}

/// Pieces of about [`CHUNK`] values that cover a parameter.
pub(crate) fn pieces(spec: &ParamSpec) -> impl ExactSizeIterator<Item = Piece> {
    let (count, decay) = (spec.shape[0], spec.decay);
    let width = spec.count() / count.max(1);
    let step = (CHUNK / width.max(1)).max(1);
    (0..count.div_ceil(step)).map(move |i| Piece {
        rows: i * step..((i + 1) * step).min(count),
        width,
        decay,
    })
}

impl Piece {
    /// Stretches of its values that lie in rows inside or outside a set.
    fn stretches<'a>(&'a self, rows: &'a Rows) -> impl Iterator<Item = (Range<usize>, bool)> + 'a {
        let at = |row: usize| (row - self.rows.start) * self.width;
        rows.stretches(self.rows.clone()).map(move |(rows, inside)| (at(rows.start)..at(rows.end), inside))
    }

    /// Sum of the squares of its gradient, which is zero outside `rows`.
    fn sum_of_squares(&self, rows: &Rows, g: &[f32]) -> f64 {
        let known = self.stretches(rows).filter(|(_, known)| *known);
        known.map(|(values, _)| sum_of_squares(&g[values])).sum()
    }

    /// Updates it; its parameter begins at `start` among all.
    #[allow(clippy::too_many_arguments)]
    fn update<T: Moment>(
        &self,
        Step { rule, keep, noise }: Step,
        start: usize,
        met: &Rows,
        w: &mut [f32],
        g: &[f32],
        m: &mut [T],
        v: &mut [T],
    ) {
        let keep = if self.decay { keep } else { 1.0 };
        let first = start + self.rows.start * self.width;
        for (values, met) in self.stretches(met) {
            let w = &mut w[values.clone()];
            if met {
                let noise = noise.wrapping_add((first + values.start) as u32);
                let (g, m, v) = (&g[values.clone()], &mut m[values.clone()], &mut v[values]);
                adamw(rule, keep, noise, w, g, m, v);
            } else {
                w.iter_mut().for_each(|w| *w *= keep);
            }
        }
    }
}

/// L2 norm of all gradients: squares are summed in f64 per fixed piece, the pieces in order. Finite unless a gradient
/// is not.
pub(crate) fn norm(params: &Params, grads: &Grads) -> f64 {
    let pieces: Vec<_> = (params.specs().iter().zip(params.ids()))
        .flat_map(|(spec, id)| pieces(spec).map(move |piece| (id, piece)))
        .collect();
    let sums: Vec<f64> = pieces
        .into_par_iter()
        .map(|(id, piece)| {
            let values = piece.rows.start * piece.width..piece.rows.end * piece.width;
            piece.sum_of_squares(grads.rows(id), &grads.of(id)[values])
        })
        .collect();
    sums.iter().sum::<f64>().sqrt()
}

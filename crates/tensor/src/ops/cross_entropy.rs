//! Linear layer and cross-entropy in one: `z = x w^T`, `loss = -sum_i a_i log softmax(z_i)[t_i]` with `x [n, d]`,
//! `w [vocabulary, d]`, targets `t` and weights `a` of length `n`.
//! `dz_i = a_i (softmax(z_i) - onehot(t_i))`, `dx = dz w`, `dw = dz^T x`.
//!
//! The logits exist for one chunk of rows at a time and turn into `dz` in place: gradients are computed in the forward
//! pass, and nothing of size `n x vocabulary` is ever stored; `dx` takes the place of `x` chunk by chunk. Rows of weight 0
//! are left out.

use super::select_rows::{gather, scatter};
use crate::kernels::matmul::{Into, Strided, product};
use crate::kernels::rows::{loss_gradient, scale};
use crate::tape::{Backward, Slot};
use crate::walk::{Flow, Walk};
use crate::{Grads, ParamId, Tape, Tensor, Var, profile};
use rayon::prelude::*;

/// Floats of logits that exist at once: 32 MB.
const CHUNK_VALUES: usize = 8 << 20;

/// With a large vocabulary a chunk has at least this many rows: packing the weights must pay. With 128,256 words a step of
/// W3 is a twentieth faster than with 128 rows, and needs 28 MB more.
const LEAST_ROWS: usize = 13 * TILE_ROWS;

/// A chunk is a multiple of the rows that AVX-512's tiles of a product have: no tile but the last is partly empty.
const TILE_ROWS: usize = 14;

/// Rows whose logits are computed together, for `n` rows in all: chunks of nearly one size, the last of what is left.
pub(super) fn chunk_rows(n: usize, vocabulary: usize) -> usize {
    let most = (CHUNK_VALUES / vocabulary.max(1)).max(LEAST_ROWS);
    n.div_ceil(n.div_ceil(most).max(1)).max(1).next_multiple_of(TILE_ROWS)
}

/// The rows that count, checked.
struct Counted {
    rows: Vec<usize>,
    /// The rows themselves.
    x: Tensor,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

/// The rows whose weight is not 0. Panics if a target of theirs is outside the vocabulary.
pub(crate) fn counted_rows(
    operator: &str,
    n: usize,
    vocabulary: usize,
    targets: &[u32],
    weights: &[f32],
) -> Vec<usize> {
    assert!(
        targets.len() == n && weights.len() == n,
        "{operator}: {n} rows, {} targets, {} weights",
        targets.len(),
        weights.len()
    );
    let rows: Vec<usize> = (0..n).filter(|i| weights[*i] != 0.0).collect();
    for &i in &rows {
        assert!(
            (targets[i] as usize) < vocabulary,
            "{operator}: target {} of row {i} is outside the vocabulary of {vocabulary}",
            targets[i]
        );
    }
    rows
}

fn counted(operator: &str, x: Tensor, vocabulary: usize, targets: &[u32], weights: &[f32]) -> Counted {
    let n = x.rows();
    let rows = counted_rows(operator, n, vocabulary, targets, weights);
    let x = if rows.len() == n { x } else { gather(&x, &rows) };
    let targets = rows.iter().map(|i| targets[*i]).collect();
    let weights = rows.iter().map(|i| weights[*i]).collect();
    Counted { rows, x, targets, weights }
}

/// The loss. With `dw` also the gradients: `dx` takes the place of the rows, `dw` is overwritten or added to.
fn run(counted: &mut Counted, w: &[f32], mut dw: Option<(&mut [f32], Into)>) -> f32 {
    let _span = profile::span("cross_entropy");
    let (n, d) = (counted.x.rows(), counted.x.row_len());
    let vocabulary = w.len() / d;
    let w = Strided::rows(w, d);
    let chunk = chunk_rows(n, vocabulary);
    let mut logits = Tensor::stale(&[chunk.min(n), vocabulary]);
    let mut nll = vec![0.0f64; n];
    for start in (0..n).step_by(chunk) {
        let range = start..(start + chunk).min(n);
        let count = range.len();
        let values = start * d..range.end * d;
        let x = Strided::rows(&counted.x.as_slice()[values.clone()], d);
        let logits = &mut logits.make_mut()[..count * vocabulary];
        product((count, vocabulary, d), x, w.t(), Into::Overwrite, logits);
        let (targets, weights) = (&counted.targets[range.clone()], &counted.weights[range.clone()]);
        logits.par_chunks_mut(vocabulary).zip(&mut nll[range.clone()]).enumerate().for_each(
            |(i, (row, nll))| {
                let logprob = loss_gradient(row, targets[i] as usize, weights[i]);
                *nll = -f64::from(weights[i]) * f64::from(logprob);
            },
        );
        if let Some((dw, into)) = &mut dw {
            let dz = Strided::rows(logits, vocabulary);
            product((vocabulary, d, count), dz.t(), x, *into, dw);
            *into = Into::Add;
            product((count, d, vocabulary), dz, w, Into::Overwrite, &mut counted.x.make_mut()[values]);
        }
    }
    nll.iter().sum::<f64>() as f32
}

struct CrossEntropy {
    x: Slot,
    n: usize,
    rows: Vec<usize>,
    w: ParamId,
    dx: Tensor,
    dw: Tensor,
}

impl<'p> Tape<'p> {
    /// Rows whose logits exist at once, for `n` rows and a vocabulary size: what a loss needs besides its operands.
    pub fn loss_rows(n: usize, vocabulary: usize) -> usize {
        chunk_rows(n, vocabulary)
    }

    /// `sum_i weights[i] * -log softmax(x w^T)[i, targets[i]]`, a scalar. A weight of 0 leaves the row out (its target
    /// may be anything). When recording, the gradients are computed here, and that of `w` waits in a buffer of its
    /// size: a training step whose only loss this is should call [`Tape::cross_entropy_backward`] instead.
    pub fn linear_cross_entropy(&mut self, x: &Var, w: ParamId, targets: &[u32], weights: &[f32]) -> Var {
        let vocabulary = self.matrix(w, x.width(), "linear_cross_entropy");
        if let Some(on) = self.params().on_card() {
            return self.cross_entropy_on_card(on, x, w, targets, weights);
        }
        let mut counted = counted("linear_cross_entropy", x.value().clone(), vocabulary, targets, weights);
        let weight = self.weight(w);
        if !self.is_recording() {
            let loss = run(&mut counted, weight, None);
            return self.constant(Tensor::scalar(loss));
        }
        let mut dw = Tensor::stale(self.params().shape(w));
        if counted.rows.is_empty() {
            dw.make_mut().fill(0.0);
        }
        let loss = run(&mut counted, weight, Some((dw.make_mut(), Into::Overwrite)));
        let (slot, n, Counted { rows, x: dx, .. }) = (self.slot(x), x.rows(), counted);
        self.push(Tensor::scalar(loss), || CrossEntropy { x: slot, n, rows, w, dx, dw })
    }

    /// [`Tape::linear_cross_entropy`] and [`Tape::backward`] in one, for a training step: returns the loss; the
    /// gradient of `w` goes straight into `grads`, and `x` is given up before the walk.
    pub fn cross_entropy_backward(
        self,
        x: Var,
        w: ParamId,
        targets: &[u32],
        weights: &[f32],
        grads: &mut Grads,
    ) -> f32 {
        self.cross_entropy_backward_later(x, w, targets, weights, grads).item()
    }

    /// [`Tape::cross_entropy_backward`] with the loss as a scalar: reading it ([`Tensor::item`]) waits for the card, if
    /// it is computed on one.
    pub fn cross_entropy_backward_later(
        self,
        x: Var,
        w: ParamId,
        targets: &[u32],
        weights: &[f32],
        grads: &mut Grads,
    ) -> Tensor {
        let params = self.params();
        let (loss, walk) = self.cross_entropy_walk(x, w, targets, weights, grads);
        walk.run(params, grads);
        loss
    }

    /// The loss of [`Tape::cross_entropy_backward_later`], the gradient of `w` added to `grads`, and the walk that is
    /// still to be made: whoever wants to look at the loss first, or to update parameters on the way, makes it.
    pub fn cross_entropy_walk(
        self,
        x: Var,
        w: ParamId,
        targets: &[u32],
        weights: &[f32],
        grads: &mut Grads,
    ) -> (Tensor, Walk) {
        let vocabulary = self.matrix(w, x.width(), "cross_entropy_backward");
        if let Some(on) = self.params().on_card() {
            return self.cross_entropy_walk_on_card(on, x, w, targets, weights, grads);
        }
        let (slot, n, d) = (self.slot(&x), x.rows(), x.width());
        // Nobody else may hold the rows if the gradient is to take their place.
        let mut counted = counted("cross_entropy_backward", x.into_value(), vocabulary, targets, weights);
        let gradient = grads.target(w);
        if counted.rows.is_empty() && gradient.1 == Into::Overwrite {
            gradient.0.fill(0.0);
        }
        let loss = run(&mut counted, self.params().value(w), Some(gradient));
        let Counted { rows, x: dx, .. } = counted;
        let dx = if rows.len() == n {
            dx
        } else {
            let mut all = Tensor::zeros(&[n, d]);
            for (from, &row) in rows.iter().enumerate() {
                all.make_mut()[row * d..(row + 1) * d].copy_from_slice(dx.row(from));
            }
            all
        };
        (Tensor::scalar(loss), self.walk_from_slots(vec![(slot, dx)]))
    }
}

impl Backward for CrossEntropy {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let factor = grad.item();
        let (mut dx, mut dw) = (self.dx, self.dw);
        if factor != 1.0 {
            scale(dx.make_mut(), factor);
            scale(dw.make_mut(), factor);
        }
        crate::kernels::add_assign(flow.grads.of_mut(self.w), dw.as_slice());
        if self.rows.len() == self.n {
            flow.give(self.x, dx);
        } else {
            scatter(flow, self.x, self.n, &self.rows, &dx);
        }
    }
}

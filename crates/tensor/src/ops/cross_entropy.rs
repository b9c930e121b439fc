//! Linear layer and cross-entropy in one: `z = x w^T`, `loss = -sum_i a_i log softmax(z_i)[t_i]` with `x [n, d]`,
//! `w [vocabulary, d]`, targets `t` and weights `a` of length `n`.
//! `dz_i = a_i (softmax(z_i) - onehot(t_i))`, `dx = dz w`, `dw = dz^T x`.
//!
//! The logits exist for one chunk of rows at a time and turn into `dz` in place: gradients are computed in the forward
//! pass, and nothing of size `n x vocabulary` is ever stored. Rows of weight 0 are left out.

use super::select_rows::{gather, scatter};
use crate::cuda::bodies::loss as on_card;
use crate::cuda::{Later, bodies};
use crate::kernels::matmul::{Into, Strided, product};
use crate::kernels::rows::{loss_gradient, scale};
use crate::tape::{Backward, Flow, Slot};
use crate::{Grads, ParamId, Tape, Tensor, Var, profile};
use rayon::prelude::*;

/// Floats of logits that exist at once: 32 MB.
const CHUNK_VALUES: usize = 8 << 20;

/// With a large vocabulary a chunk has at least this many rows: packing the weights must pay.
const LEAST_ROWS: usize = 128;

/// Rows whose logits are computed together, for `n` rows in all: chunks of nearly one size.
pub(super) fn chunk_rows(n: usize, vocabulary: usize) -> usize {
    let most = (CHUNK_VALUES / vocabulary.max(1)).max(LEAST_ROWS);
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

/// The rows that count, checked.
struct Counted {
    rows: Vec<usize>,
    /// The rows themselves if some were left out.
    x: Tensor,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

fn counted(operator: &str, x: &Tensor, vocabulary: usize, targets: &[u32], weights: &[f32]) -> Counted {
    let n = x.rows();
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
    let x = if rows.len() == n { x.clone() } else { gather(x, &rows) };
    let targets = rows.iter().map(|i| targets[*i]).collect();
    let weights = rows.iter().map(|i| weights[*i]).collect();
    Counted { rows, x, targets, weights }
}

/// The loss, and with `gradients` also `dx` (overwritten) and `dw` (added to).
fn run(counted: &Counted, w: &[f32], mut gradients: Option<(&mut [f32], &mut [f32])>) -> f32 {
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
        let x = Strided::rows(&counted.x.as_slice()[start * d..range.end * d], d);
        let logits = &mut logits.make_mut()[..count * vocabulary];
        product((count, vocabulary, d), x, w.t(), Into::Overwrite, logits);
        let (targets, weights) = (&counted.targets[range.clone()], &counted.weights[range.clone()]);
        logits.par_chunks_mut(vocabulary).zip(&mut nll[range.clone()]).enumerate().for_each(
            |(i, (row, nll))| {
                let logprob = loss_gradient(row, targets[i] as usize, weights[i]);
                *nll = -f64::from(weights[i]) * f64::from(logprob);
            },
        );
        if let Some((dx, dw)) = &mut gradients {
            let dz = Strided::rows(logits, vocabulary);
            let dx = &mut dx[start * d..range.end * d];
            product((count, d, vocabulary), dz, w, Into::Overwrite, dx);
            product((vocabulary, d, count), dz.t(), x, Into::Add, dw);
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
        let counted = counted("linear_cross_entropy", x.value(), vocabulary, targets, weights);
        if x.value().card().is_some() {
            return self.cross_entropy_on_card(x, w, counted);
        }
        let weight = self.params().value(w);
        if !self.is_recording() {
            let loss = run(&counted, weight, None);
            return self.constant(Tensor::scalar(loss));
        }
        let mut dx = Tensor::stale(&[counted.rows.len(), x.width()]);
        let mut dw = Tensor::zeros(self.params().shape(w));
        let loss = run(&counted, weight, Some((dx.make_mut(), dw.make_mut())));
        let (slot, n) = (self.slot(x), x.rows());
        self.push(Tensor::scalar(loss), || CrossEntropy { x: slot, n, rows: counted.rows, w, dx, dw })
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
        self.cross_entropy_backward_later(x, w, targets, weights, grads).wait()[0]
    }

    /// [`Tape::cross_entropy_backward`] without waiting for the loss (one number): a card may not have computed it yet.
    pub fn cross_entropy_backward_later(
        self,
        x: Var,
        w: ParamId,
        targets: &[u32],
        weights: &[f32],
        grads: &mut Grads,
    ) -> Later {
        let vocabulary = self.matrix(w, x.width(), "cross_entropy_backward");
        let counted = counted("cross_entropy_backward", x.value(), vocabulary, targets, weights);
        if let Some(card) = x.value().card() {
            let mut dx = Tensor::stale_on(card, x.value().dtype(), &[counted.rows.len(), x.width()]);
            let gradients = on_card::Gradients { dx: &mut dx, dw: grads.at_mut(w) };
            let Counted { rows, x: some, targets, weights } = counted;
            let loss = on_card::cross_entropy(self.params(), &some, w, &targets, &weights, Some(gradients));
            drop(some);
            if rows.len() < x.rows() {
                let mut all = Tensor::stale_on(card, dx.dtype(), x.shape());
                bodies::rows::scatter(&dx, &rows, &mut all, Into::Overwrite);
                dx = all;
            }
            self.backward_from([(x, dx)], grads);
            return Later::coming(loss, 1).unwrap_or_else(|error| panic!("card: {error}"));
        }
        let mut dx = Tensor::stale(&[counted.rows.len(), x.width()]);
        let loss = run(&counted, self.params().value(w), Some((dx.make_mut(), grads.of_mut(w))));
        let dx = if counted.rows.len() == x.rows() {
            dx
        } else {
            let mut all = Tensor::zeros(x.shape());
            let d = x.width();
            for (from, &row) in counted.rows.iter().enumerate() {
                all.make_mut()[row * d..(row + 1) * d].copy_from_slice(dx.row(from));
            }
            all
        };
        drop(counted);
        self.backward_from([(x, dx)], grads);
        Later::known(vec![loss])
    }

    fn cross_entropy_on_card(&mut self, x: &Var, w: ParamId, counted: Counted) -> Var {
        let Counted { rows, x: some, targets, weights } = counted;
        let params = self.params();
        if !self.is_recording() {
            let loss = on_card::cross_entropy(params, &some, w, &targets, &weights, None);
            return self.constant(Tensor::scalar_on_card(loss));
        }
        let card = some.card().expect("the body of a card");
        let mut dx = Tensor::stale_on(card, some.dtype(), some.shape());
        let mut dw = Tensor::zeros_on(card, params.shape(w));
        let gradients = on_card::Gradients { dx: &mut dx, dw: dw.at_mut() };
        let loss = on_card::cross_entropy(params, &some, w, &targets, &weights, Some(gradients));
        let (slot, n) = (self.slot(x), x.rows());
        self.push(Tensor::scalar_on_card(loss), || CrossEntropy { x: slot, n, rows, w, dx, dw })
    }
}

impl Backward for CrossEntropy {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let (mut dx, mut dw) = (self.dx, self.dw);
        if grad.card().is_some() {
            bodies::scale(&mut dx, &grad);
            let place = bodies::Place::of(&dx);
            bodies::add_scaled_f32(place, flow.grads.at_mut(self.w), &dw, &grad);
            return match self.rows.len() == self.n {
                true => flow.give(self.x, dx),
                false => scatter(flow, self.x, self.n, &self.rows, &dx),
            };
        }
        let factor = grad.item();
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

//! Token log-probabilities: `y_i = log softmax(x_i w^T)[t_i]` with `x [n, d]`, `w [vocabulary, d]`, `y [n]`.
//! `dz_i = dy_i (onehot(t_i) - softmax(z_i))`, `dx = dz w`, `dw = dz^T x`.
//!
//! The logits exist for one chunk of rows at a time; the backward pass computes them again.

use super::cross_entropy::chunk_rows;
use crate::kernels::matmul::{Into, Strided, product};
use crate::kernels::rows::loss_gradient;
use crate::tape::{Backward, Saved, Slot};
use crate::walk::Flow;
use crate::{ParamId, Tape, Tensor, Var, profile};
use rayon::prelude::*;

struct LogProbs {
    x: Slot,
    saved: Saved,
    w: ParamId,
    targets: Vec<u32>,
}

impl Tape<'_> {
    /// Log-probability of each row's target under `softmax(x w^T)`: `[n]`. Panics if a target is outside the
    /// vocabulary.
    pub fn token_logprobs(&mut self, x: &Var, w: ParamId, targets: &[u32]) -> Var {
        let _span = profile::span("logprobs");
        let (n, d) = (x.rows(), x.width());
        let vocabulary = self.matrix(w, d, "token_logprobs");
        assert_eq!(targets.len(), n, "token_logprobs: {n} rows, {} targets", targets.len());
        for (row, target) in targets.iter().enumerate() {
            assert!(
                (*target as usize) < vocabulary,
                "token_logprobs: target {target} of row {row} is outside the vocabulary of {vocabulary}"
            );
        }
        if let Some(on) = self.params().on_card() {
            return self.token_logprobs_on_card(on, x, w, targets);
        }
        let mut out = Tensor::stale(&[n]);
        let weight = self.weight(w);
        in_chunks(x.value(), weight, |start, logits| {
            let out = &mut out.make_mut()[start..start + logits.len() / vocabulary];
            logits.par_chunks_mut(vocabulary).zip(out).enumerate().for_each(|(i, (row, out))| {
                *out = loss_gradient(row, targets[start + i] as usize, 0.0);
            });
        });
        let slot = self.slot(x);
        self.push(out, || LogProbs { x: slot, saved: Saved::new(x), w, targets: targets.to_vec() })
    }
}

/// Calls `each` with the first row and the logits of every chunk of rows.
fn in_chunks(x: &Tensor, w: &[f32], mut each: impl FnMut(usize, &mut [f32])) {
    let (n, d) = (x.rows(), x.row_len());
    let vocabulary = w.len() / d;
    let chunk = chunk_rows(n, vocabulary);
    let mut logits = Tensor::stale(&[chunk.min(n), vocabulary]);
    for start in (0..n).step_by(chunk) {
        let count = chunk.min(n - start);
        let logits = &mut logits.make_mut()[..count * vocabulary];
        let x = Strided::rows(&x.as_slice()[start * d..(start + count) * d], d);
        product((count, vocabulary, d), x, Strided::rows(w, d).t(), Into::Overwrite, logits);
        each(start, logits);
    }
}

impl Backward for LogProbs {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let params = flow.params;
        let x = self.saved.tensor(params);
        let (n, d) = (x.rows(), x.row_len());
        let weight = params.value(self.w);
        let vocabulary = weight.len() / d;
        let grads = &mut *flow.grads;
        let mut dx = Tensor::stale(&[n, d]);
        in_chunks(&x, weight, |start, logits| {
            let count = logits.len() / vocabulary;
            logits.par_chunks_mut(vocabulary).enumerate().for_each(|(i, row)| {
                loss_gradient(row, self.targets[start + i] as usize, -grad.as_slice()[start + i]);
            });
            let dz = Strided::rows(logits, vocabulary);
            let rows = start * d..(start + count) * d;
            let w = Strided::rows(weight, d);
            product((count, d, vocabulary), dz, w, Into::Overwrite, &mut dx.make_mut()[rows.clone()]);
            let x = Strided::rows(&x.as_slice()[rows], d);
            let (dw, into) = grads.target(self.w);
            product((vocabulary, d, count), dz.t(), x, into, dw);
        });
        flow.give(self.x, dx);
    }
}

//! One training step: micro-batches forward and backward into one gradient, then the optimizer.

use crate::adamw::{AdamW, AdamWSettings};
use crate::packing::MicroBatch;
use herd_model::Llama;
use herd_tensor::cuda::{Card, CardError, DType};
use herd_tensor::{Grads, Params, Tape, Tensor};
use std::sync::Arc;

/// A model in training.
pub struct Trainer {
    /// Which parameters there are and how they are applied.
    pub llama: Arc<Llama>,
    /// Their values.
    pub params: Params,
    /// The optimizer with its moments.
    pub optimizer: AdamW,
    /// Whether the insides of every block are computed again in the backward pass instead of kept.
    pub recompute: bool,
    grads: Grads,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// Mean loss over the step's tokens, nats per token, before the update.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
}

/// A loss or gradient that is not a finite number. The step was not applied and the gradient is cleared.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the {what} is {value}")]
pub struct NotFinite {
    /// `loss` or `gradient norm`.
    pub what: &'static str,
    /// The value met.
    pub value: f64,
    /// The micro-batch whose loss it was; `None` if only the sum of gradients shows it.
    pub micro_batch: Option<usize>,
}

impl Trainer {
    /// A model with its initial or loaded parameters and fresh moments.
    pub fn new(llama: Llama, params: Params, settings: AdamWSettings) -> Self {
        let grads = Grads::new(&params);
        let optimizer = AdamW::new(&params, settings);
        Self { llama: Arc::new(llama), params, optimizer, recompute: false, grads }
    }

    /// Moves parameters, gradients and moments to a card; steps are made there from now on.
    ///
    /// # Errors
    /// The card has not enough memory, or failed.
    pub fn to_card(&mut self, card: &Card, activations: DType) -> Result<(), CardError> {
        self.params.to_card(card, activations)?;
        self.grads = Grads::new(&self.params);
        self.optimizer.to_card(&self.params)
    }

    /// Forgets the moments, as before the first step.
    pub fn reset(&mut self) {
        self.optimizer.reset(&self.params);
    }

    /// One optimizer step over the micro-batches, with every row weighing the same.
    pub fn step(&mut self, micro_batches: &[MicroBatch], lr: f64) -> Result<StepOutcome, NotFinite> {
        let rows: usize = micro_batches.iter().map(|micro| micro.targets.len()).sum();
        let weight = 1.0 / rows.max(1) as f32;
        let mut losses: Vec<Tensor> = Vec::with_capacity(micro_batches.len());
        for (i, micro) in micro_batches.iter().enumerate() {
            let mut tape = Tape::new(&self.params);
            let hidden = match self.recompute {
                true => self.llama.hidden_recomputed(&mut tape, &micro.batch),
                false => self.llama.hidden(&mut tape, &micro.batch),
            };
            let weights = vec![weight; micro.targets.len()];
            let head = self.llama.head();
            let loss =
                tape.cross_entropy_backward_later(hidden, head, &micro.targets, &weights, &mut self.grads);
            // One that is computed elsewhere is not waited for: the optimizer leaves the step out by itself.
            if loss.is_on_host()
                && let Err(problem) = finite(&loss, i)
            {
                self.grads.zero();
                return Err(problem);
            }
            losses.push(loss);
        }
        let applied = self.optimizer.step(&mut self.params, &mut self.grads, lr);
        let mut loss = 0.0;
        for (i, value) in losses.iter().enumerate() {
            loss += finite(value, i)?;
        }
        match applied {
            Ok(stats) => Ok(StepOutcome { loss, grad_norm: stats.grad_norm }),
            Err(error) => Err(NotFinite { what: "gradient norm", value: error.norm, micro_batch: None }),
        }
    }
}

/// The loss of a micro-batch, if it is a number.
fn finite(loss: &Tensor, micro_batch: usize) -> Result<f64, NotFinite> {
    let value = f64::from(loss.item());
    match value.is_finite() {
        true => Ok(value),
        false => Err(NotFinite { what: "loss", value, micro_batch: Some(micro_batch) }),
    }
}

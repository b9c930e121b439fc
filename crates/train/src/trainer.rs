//! One training step: micro-batches forward and backward into one gradient, then the optimizer.

use crate::adamw::{AdamW, AdamWSettings, Begun};
use crate::packing::MicroBatch;
use herd_model::Llama;
use herd_tensor::cuda::Later;
use herd_tensor::{Grads, Params, Tape};
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

/// A step that was begun. On the CPU it is done; on a card it may be under way, and the host can prepare and begin the next
/// before it asks what this one did.
#[derive(Debug)]
pub struct BegunStep {
    losses: Vec<Later>,
    update: Option<Begun>,
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

    /// Forgets the moments, as before the first step.
    pub fn reset(&mut self) {
        self.optimizer.reset(&self.params);
    }

    /// One optimizer step over the micro-batches, with every row weighing the same.
    pub fn step(&mut self, micro_batches: &[MicroBatch], lr: f64) -> Result<StepOutcome, NotFinite> {
        let begun = self.begin(micro_batches, lr);
        self.finish(begun)
    }

    /// Begins [`Trainer::step`] without waiting for a card.
    pub fn begin(&mut self, micro_batches: &[MicroBatch], lr: f64) -> BegunStep {
        let rows: usize = micro_batches.iter().map(|micro| micro.targets.len()).sum();
        let weight = 1.0 / rows.max(1) as f32;
        let mut losses = Vec::with_capacity(micro_batches.len());
        for micro in micro_batches {
            let mut tape = Tape::new(&self.params);
            let hidden = match self.recompute {
                true => self.llama.hidden_recomputed(&mut tape, &micro.batch),
                false => self.llama.hidden(&mut tape, &micro.batch),
            };
            let weights = vec![weight; micro.targets.len()];
            let head = self.llama.head();
            let loss =
                tape.cross_entropy_backward_later(hidden, head, &micro.targets, &weights, &mut self.grads);
            let broken = loss.if_known().is_some_and(|loss| !loss[0].is_finite());
            losses.push(loss);
            if broken {
                self.grads.zero();
                return BegunStep { losses, update: None };
            }
        }
        let update = self.optimizer.begin(&mut self.params, &mut self.grads, lr, &losses);
        BegunStep { losses, update: Some(update) }
    }

    /// Waits until a step is done, and says what it did. Steps are finished in the order in which they were begun.
    pub fn finish(&mut self, begun: BegunStep) -> Result<StepOutcome, NotFinite> {
        let updated = begun.update.map(|update| self.optimizer.finish(update));
        let mut loss = 0.0;
        for (i, later) in begun.losses.into_iter().enumerate() {
            let value = f64::from(later.wait()[0]);
            if !value.is_finite() {
                return Err(NotFinite { what: "loss", value, micro_batch: Some(i) });
            }
            loss += value;
        }
        match updated.expect("a step without update has a loss that is not finite") {
            Ok(stats) => Ok(StepOutcome { loss, grad_norm: stats.grad_norm }),
            Err(error) => Err(NotFinite { what: "gradient norm", value: error.norm, micro_batch: None }),
        }
    }
}

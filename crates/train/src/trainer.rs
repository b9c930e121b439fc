//! One training step: micro-batches forward and backward into one gradient, then the optimizer.

use crate::adamw::{AdamW, AdamWSettings, NonFinite, StepStats};
use crate::packing::MicroBatch;
use herd_model::Llama;
use herd_tensor::cuda::{Card, CardError, CardReport, DType};
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
    /// The losses of a step on a card, one for each micro-batch: places that last, so that passes may repeat.
    losses_on_card: Vec<Tensor>,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOutcome {
    /// Mean loss over the step's tokens, nats per token, before the update.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
}

/// A step that was begun. On the processor it is done; on a card it may be under way, and the host can prepare and begin the
/// next before it asks what this one did.
pub struct BegunStep(State);

enum State {
    Done(Result<StepOutcome, NotFinite>),
    OnCard(CardReport),
    /// Without the optimizer.
    Losses(Vec<Tensor>),
}

/// A loss or gradient that is not a finite number. The gradient is cleared, and the step was not applied, unless it says so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the {what} is {value}")]
pub struct NotFinite {
    /// `loss` or `gradient norm`.
    pub what: &'static str,
    /// The value met.
    pub value: f64,
    /// The micro-batch whose loss it was; `None` if only the sum of gradients shows it.
    pub micro_batch: Option<usize>,
    /// The step was applied, because the optimizer updates inside the backward pass: the parameters are lost.
    pub applied: bool,
}

impl Trainer {
    /// A model with its initial or loaded parameters and fresh moments.
    pub fn new(llama: Llama, params: Params, settings: AdamWSettings) -> Self {
        let grads = if settings.in_backward { Grads::transient(&params) } else { Grads::new(&params) };
        let optimizer = AdamW::new(&params, settings);
        Self {
            llama: Arc::new(llama),
            params,
            optimizer,
            recompute: false,
            grads,
            losses_on_card: Vec::new(),
        }
    }

    /// Moves parameters, gradients and moments to a card, where the optimizer's `in_backward` has no meaning; steps are made there from now on.
    ///
    /// # Errors
    /// The card has not enough memory, or failed.
    pub fn to_card(&mut self, card: &Card, activations: DType) -> Result<(), CardError> {
        self.weights_to_card(card, activations)?;
        self.optimizer.to_card(&self.params)
    }

    /// The same without moments, for [`Trainer::gradient`] alone.
    ///
    /// # Errors
    /// The card has not enough memory, or failed.
    pub fn weights_to_card(&mut self, card: &Card, activations: DType) -> Result<(), CardError> {
        self.params.to_card(card, activations)?;
        self.grads = Grads::new(&self.params);
        self.losses_on_card.clear();
        Ok(())
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

    /// A step without the optimizer: the loss, after the gradient was computed and cleared.
    pub fn gradient(&mut self, micro_batches: &[MicroBatch]) -> Result<f64, NotFinite> {
        let begun = self.begin_gradient(micro_batches);
        self.finish(begun).map(|outcome| outcome.loss)
    }

    /// Begins [`Trainer::gradient`]; the outcome's norm will be NaN. Finish it before the next is begun.
    pub fn begin_gradient(&mut self, micro_batches: &[MicroBatch]) -> BegunStep {
        let losses = self.accumulate(micro_batches, None);
        self.grads.zero();
        BegunStep(losses.map_or_else(|problem| State::Done(Err(problem)), State::Losses))
    }

    /// Begins [`Trainer::step`]; a card is not waited for, and leaves the step out by itself if something is not finite.
    pub fn begin(&mut self, micro_batches: &[MicroBatch], lr: f64) -> BegunStep {
        let in_backward = self.optimizer.settings().in_backward && self.params.on_card().is_none();
        let mut applied = None;
        let losses = match self.accumulate(micro_batches, in_backward.then_some((lr, &mut applied))) {
            Ok(losses) => losses,
            Err(problem) => return BegunStep(State::Done(Err(problem))),
        };
        if let Some(applied) = applied {
            let losses = losses.iter().map(Tensor::item);
            let lost = |problem| NotFinite { applied: true, ..problem };
            return BegunStep(State::Done(outcome(losses, applied).map_err(lost)));
        }
        BegunStep(match self.params.on_card().is_some() {
            true => {
                State::OnCard(self.optimizer.begin_on_card(&mut self.params, &mut self.grads, lr, &losses))
            }
            false => {
                let applied = self.optimizer.step(&mut self.params, &mut self.grads, lr);
                State::Done(outcome(losses.iter().map(Tensor::item), applied))
            }
        })
    }

    /// Adds up the gradient. The micro-batches' losses; those on a card are not waited for. `in_backward` is a learning
    /// rate: then the last backward pass applies the step, and says what it did.
    fn accumulate(
        &mut self,
        micro_batches: &[MicroBatch],
        mut in_backward: Option<(f64, &mut Option<Result<StepStats, NonFinite>>)>,
    ) -> Result<Vec<Tensor>, NotFinite> {
        let rows: usize = micro_batches.iter().map(|micro| micro.targets.len()).sum();
        let weight = 1.0 / rows.max(1) as f32;
        let mut losses: Vec<Tensor> = Vec::with_capacity(micro_batches.len());
        for (i, micro) in micro_batches.iter().enumerate() {
            let card = self.params.on_card().map(|on| on.card().clone());
            let pass = card.as_ref().map(Card::pass);
            let mut tape = Tape::new(&self.params);
            let hidden = match self.recompute {
                true => self.llama.hidden_recomputed(&mut tape, &micro.batch),
                false => self.llama.hidden(&mut tape, &micro.batch),
            };
            let weights = vec![weight; micro.targets.len()];
            let head = self.llama.head();
            let (loss, walk) =
                tape.cross_entropy_walk(hidden, head, &micro.targets, &weights, &mut self.grads);
            let Some(pass) = pass else {
                if let Err(problem) = finite(loss.item(), i) {
                    self.grads.zero();
                    return Err(problem);
                }
                losses.push(loss);
                match in_backward.take_if(|_| i + 1 == micro_batches.len()) {
                    None => walk.run(&self.params, &mut self.grads),
                    Some((lr, applied)) => {
                        let mut step = self.optimizer.begin_in_backward(&self.params, lr);
                        walk.run_updating(&mut self.params, &mut self.grads, &mut |one| step.update(one));
                        *applied = Some(step.finish());
                    }
                }
                continue;
            };
            walk.run(&self.params, &mut self.grads);
            pass.run().unwrap_or_else(|error| panic!("{error}"));
            match self.losses_on_card.get(i) {
                Some(place) => place.assign(&loss),
                None => self.losses_on_card.push(loss),
            }
            losses.push(self.losses_on_card[i].clone());
        }
        Ok(losses)
    }

    /// Waits until a step is done, and says what it did. Steps are finished in the order in which they were begun.
    pub fn finish(&mut self, begun: BegunStep) -> Result<StepOutcome, NotFinite> {
        match begun.0 {
            State::Done(outcome) => outcome,
            State::Losses(losses) => {
                let losses = losses.iter().map(Tensor::item);
                outcome(losses, Ok(StepStats { grad_norm: f64::NAN }))
            }
            State::OnCard(report) => {
                let (losses, applied) = self.optimizer.finish_on_card(report);
                outcome(losses.into_iter(), applied)
            }
        }
    }
}

/// The outcome of a step from the losses of its micro-batches and the update.
fn outcome(
    losses: impl Iterator<Item = f32>,
    applied: Result<StepStats, NonFinite>,
) -> Result<StepOutcome, NotFinite> {
    let mut loss = 0.0;
    for (i, value) in losses.enumerate() {
        loss += finite(value, i)?;
    }
    match applied {
        Ok(stats) => Ok(StepOutcome { loss, grad_norm: stats.grad_norm }),
        Err(error) => {
            Err(NotFinite { what: "gradient norm", value: error.norm, micro_batch: None, applied: false })
        }
    }
}

/// The loss of a micro-batch, if it is a number.
fn finite(loss: f32, micro_batch: usize) -> Result<f64, NotFinite> {
    let value = f64::from(loss);
    match value.is_finite() {
        true => Ok(value),
        false => Err(NotFinite { what: "loss", value, micro_batch: Some(micro_batch), applied: false }),
    }
}

//! AdamW over the flat parameter buffer in two passes: one reads the gradient for its norm, one updates everything. Or, where
//! nothing is clipped, parameter by parameter inside the backward pass.

use crate::card_moments::CardMoments;
use crate::moments::{MomentType, Moments};
use crate::update::{Step, norm, pieces, update, update_one};
use herd_run::SettingError;
use herd_tensor::cuda::{CardError, CardReport, CardRule};
use herd_tensor::kernels::AdamWRule;
use herd_tensor::{Complete, Grads, ParamSpec, Params, Rows, Tensor, profile};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// Steps begin at random places of the sequence of random numbers by which moments in bf16 are rounded.
const STEP_NOISE: u32 = 0x9e37_79b9;

/// Settings of the optimizer; the defaults are the paper's (SPEC TRAIN-1).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: each step shrinks the matrices (not the norms) by this times the learning rate.
    pub weight_decay: f64,
    /// Gradients whose global norm exceeds this are scaled down to it; 0 turns clipping off.
    pub clip: f64,
    /// What the moments are stored as.
    pub moments: MomentType,
    /// Update each parameter inside the backward pass, as soon as its gradient is complete, and free the gradient's memory
    /// at once: the gradients never exist all together. The same bits. Needs `clip = 0`, one micro-batch a step, the
    /// processor, and `non_finite.policy = "stop"`: a gradient that is not finite is met when some parameters are
    /// updated already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_backward: bool,
}

impl Default for AdamWSettings {
    fn default() -> Self {
        let (clip, moments, in_backward) = (1.0, MomentType::F32, false);
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-5, weight_decay: 0.1, clip, moments, in_backward }
    }
}

impl AdamWSettings {
    /// Checks that the values can work.
    pub fn validate(&self) -> Result<(), SettingError> {
        for (key, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(SettingError::new(key, format!("{value} must lie in 0 <= {key} < 1")));
            }
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(SettingError::new("eps", format!("{} must be a number above 0", self.eps)));
        }
        for (key, value) in [("weight_decay", self.weight_decay), ("clip", self.clip)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(SettingError::new(key, format!("{value} must be a number from 0 up")));
            }
        }
        if self.in_backward && self.clip > 0.0 {
            let problem = format!(
                "gradients cannot be clipped at {} when each is used up before the norm of all is known; set clip = 0, or \
                 in_backward = false",
                self.clip
            );
            return Err(SettingError::new("in_backward", problem));
        }
        Ok(())
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepStats {
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
}

/// The gradient holds a NaN or an infinity; the step was not applied.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the gradient is not finite (norm {norm})")]
pub struct NonFinite {
    /// The norm as computed: NaN or infinite.
    pub norm: f64,
}

/// AdamW (arXiv 1711.05101) with bias correction, as PyTorch's: for each weight w with gradient g (after clipping)
///
/// ```text
/// m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,
/// w = w (1 - lr * decay) - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
/// ```
///
/// Rows that never had a gradient (tokens not met yet) have moments of zero, which take no memory, and only decay.
/// Moments in bf16 are rounded at random by the step and the place of the parameter alone, so a run can be repeated and
/// resumed to the bit.
pub struct AdamW {
    settings: AdamWSettings,
    /// Absent where only the card has the newest ones.
    moments: OnceLock<Moments>,
    card: Option<CardMoments>,
    /// Steps that a card may leave out because something is not finite; after one more it leaves out all, so that what
    /// is begun before the host knows changes nothing.
    pub left_out_at_most: u32,
    steps: u64,
    /// For each parameter the rows that ever had a gradient.
    met: Vec<Rows>,
}

impl AdamW {
    /// An optimizer for a set of parameters; its moments begin at zero.
    pub fn new(params: &Params, settings: AdamWSettings) -> Self {
        let met = params.specs().iter().map(|spec| Rows::none(spec.shape[0])).collect();
        let moments = Moments::new(settings.moments, params.count()).into();
        Self { settings, moments, card: None, left_out_at_most: u32::MAX, steps: 0, met }
    }

    /// Moves the moments to the card of the parameters. Panics if they are in bf16, which no kernel of a
    /// card rounds at random yet.
    ///
    /// # Errors
    /// The card has not enough memory, or failed.
    pub fn to_card(&mut self, params: &Params) -> Result<(), CardError> {
        assert!(self.settings.moments == MomentType::F32, "adamw: moments on a card are f32");
        self.card = Some(CardMoments::new(params)?);
        Ok(())
    }

    /// Its settings.
    pub fn settings(&self) -> &AdamWSettings {
        &self.settings
    }

    /// Steps applied so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The moments, laid out as [`Params::flat`].
    pub fn moments(&self) -> &Moments {
        self.moments.get_or_init(|| {
            let card = self.card.as_ref().expect("the host or a card has the moments");
            card.read()
        })
    }

    /// Moments to be overwritten from a checkpoint of a model with the same parameters, after `steps` steps.
    pub fn restore(&mut self, steps: u64) -> &mut Moments {
        self.steps = steps;
        self.met.iter_mut().for_each(Rows::insert_all);
        self.moments_mut()
    }

    /// Moments of the host, which the card is to have before its next step.
    fn moments_mut(&mut self) -> &mut Moments {
        self.moments();
        if let Some(card) = &mut self.card {
            card.outdated = true;
        }
        self.moments.get_mut().expect("just made")
    }

    /// Forgets the moments, as before the first step.
    pub fn reset(&mut self, params: &Params) {
        self.moments = Moments::new(self.settings.moments, params.count()).into();
        if let Some(card) = &mut self.card {
            card.outdated = true;
        }
        self.steps = 0;
        self.met.iter_mut().for_each(Rows::clear);
    }

    /// Applies one step with learning rate `lr` and clears the gradients for the next.
    ///
    /// If the gradient holds a NaN or an infinity, parameters and moments stay as they were, the gradients are
    /// cleared and [`NonFinite`] is returned.
    pub fn step(&mut self, params: &mut Params, grads: &mut Grads, lr: f64) -> Result<StepStats, NonFinite> {
        if self.card.is_some() {
            let report = self.begin_on_card(params, grads, lr, &[]);
            return self.finish_on_card(report).1;
        }
        let span = profile::span("gradient norm");
        let norm = norm(params, grads);
        drop(span);
        let _span = profile::span("adamw");
        if !norm.is_finite() {
            grads.zero();
            return Err(NonFinite { norm });
        }
        let s = &self.settings;
        let clip = if s.clip > 0.0 && norm > s.clip { s.clip / norm } else { 1.0 };
        let step = self.next(clip, lr);
        match self.moments.get_mut().expect("the host has the moments") {
            Moments::F32(pair) => update(step, params, grads, pair, &mut self.met),
            Moments::Bf16(pair) => update(step, params, grads, pair, &mut self.met),
        }
        Ok(StepStats { grad_norm: norm })
    }

    /// Begins a step that is made parameter by parameter inside the backward pass ([`herd_tensor::Walk::run_updating`]),
    /// each of `params` once; [`StepInBackward::finish`] ends it. Panics if the settings clip, or the moments are on a
    /// card.
    pub fn begin_in_backward(&mut self, params: &Params, lr: f64) -> StepInBackward<'_> {
        assert!(self.settings.clip == 0.0, "adamw: nothing can be clipped before the norm is known");
        assert!(self.card.is_none(), "adamw: a card updates after the backward pass");
        let specs = params.specs().to_vec();
        let starts = params.ids().map(|id| params.range(id).start).collect();
        let sums = specs.iter().map(|spec| vec![0.0; pieces(spec).len()]).collect();
        let step = self.next(1.0, lr);
        StepInBackward { optimizer: self, step, specs, starts, sums }
    }

    /// Counts a step and gives its numbers.
    fn next(&mut self, clip: f64, lr: f64) -> Step {
        self.steps += 1;
        let s = &self.settings;
        let t = self.steps.min(i32::MAX as u64) as i32;
        let rule = AdamWRule {
            clip: clip as f32,
            b1: s.beta1 as f32,
            b2: s.beta2 as f32,
            rate: (lr / (1.0 - s.beta1.powi(t))) as f32,
            root: (1.0 / (1.0 - s.beta2.powi(t)).sqrt()) as f32,
            eps: s.eps as f32,
        };
        let keep = (1.0 - lr * s.weight_decay) as f32;
        Step { rule, keep, noise: (self.steps as u32).wrapping_mul(STEP_NOISE) }
    }

    /// Asks the card that the moments are on for a step, which is left out if the gradient or one of the losses is not
    /// finite, and does not wait. Panics if the card fails, as operators do.
    pub(crate) fn begin_on_card(
        &mut self,
        params: &mut Params,
        grads: &mut Grads,
        lr: f64,
        losses: &[Tensor],
    ) -> CardReport {
        let _span = profile::span("adamw");
        let s = &self.settings;
        let rule = CardRule {
            max_norm: s.clip,
            keep: (1.0 - lr * s.weight_decay) as f32,
            b1: s.beta1,
            b2: s.beta2,
            rate: lr,
            eps: s.eps,
            left_out_at_most: self.left_out_at_most,
        };
        let card = self.card.as_mut().expect("the moments are on a card");
        let report = card.step(rule, losses, (self.moments.get(), self.steps), params, grads);
        self.moments.take();
        report.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits for a step on a card: its losses, and what it did. Steps are finished in the order in which they were begun.
    pub(crate) fn finish_on_card(&mut self, report: CardReport) -> (Vec<f32>, Result<StepStats, NonFinite>) {
        let (norm, losses) = report.wait().unwrap_or_else(|error| panic!("{error}"));
        if !norm.is_finite() {
            return (losses, Err(NonFinite { norm }));
        }
        self.steps += u64::from(losses.iter().all(|loss| loss.is_finite()));
        (losses, Ok(StepStats { grad_norm: norm }))
    }
}

/// A step that is being made parameter by parameter; see [`AdamW::begin_in_backward`].
pub struct StepInBackward<'a> {
    optimizer: &'a mut AdamW,
    step: Step,
    specs: Vec<ParamSpec>,
    /// Where each parameter begins among all.
    starts: Vec<usize>,
    /// For each parameter the sum of squares of each piece of its gradient.
    sums: Vec<Vec<f64>>,
}

impl StepInBackward<'_> {
    /// Updates a parameter.
    pub fn update(&mut self, complete: Complete<'_>) {
        let index = complete.id.index();
        let (spec, start, sums) = (&self.specs[index], self.starts[index], &mut self.sums[index]);
        let met = &mut self.optimizer.met[index];
        match self.optimizer.moments.get_mut().expect("the host has the moments") {
            Moments::F32(pair) => update_one(self.step, spec, start, complete, pair, met, sums),
            Moments::Bf16(pair) => update_one(self.step, spec, start, complete, pair, met, sums),
        }
    }

    /// What the step did, when every parameter is updated.
    ///
    /// # Errors
    /// The gradient held a NaN or an infinity, which is now in parameters and moments: neither is of any use.
    pub fn finish(self) -> Result<StepStats, NonFinite> {
        let norm = self.sums.iter().flatten().sum::<f64>().sqrt();
        match norm.is_finite() {
            true => Ok(StepStats { grad_norm: norm }),
            false => Err(NonFinite { norm }),
        }
    }
}

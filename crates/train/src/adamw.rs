//! AdamW over the flat parameter buffer in two passes: one reads the gradient for its norm, one updates everything.

use crate::card_moments::CardMoments;
use crate::moments::{MomentType, Moments, Pair};
use herd_run::SettingError;
use herd_tensor::cuda::{CardError, CardReport, CardRule};
use herd_tensor::kernels::{AdamWRule, Moment, adamw, sum_of_squares};
use herd_tensor::{Grads, ParamId, Params, Rows, Tensor, profile};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::OnceLock;

/// Values per unit of parallel work, about. Fixed, so that sums are the same bits for any number of threads.
const CHUNK: usize = 1 << 15;

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
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-5, weight_decay: 0.1, clip: 1.0, moments: MomentType::F32 }
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
        self.steps += 1;
        let s = &self.settings;
        let clip = if s.clip > 0.0 && norm > s.clip { s.clip / norm } else { 1.0 };
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
        let noise = (self.steps as u32).wrapping_mul(STEP_NOISE);
        match self.moments.get_mut().expect("the host has the moments") {
            Moments::F32(pair) => update(rule, keep, noise, params, grads, pair, &mut self.met),
            Moments::Bf16(pair) => update(rule, keep, noise, params, grads, pair, &mut self.met),
        }
        Ok(StepStats { grad_norm: norm })
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

/// One update of everything, for moments of one type.
fn update<T: Moment>(
    rule: AdamWRule,
    keep: f32,
    noise: u32,
    params: &mut Params,
    grads: &mut Grads,
    moments: &mut Pair<T>,
    met: &mut [Rows],
) {
    let (mut g, rows) = grads.parts_mut();
    for ((met, rows), id) in met.iter_mut().zip(rows).zip(params.ids()) {
        if rows.is_all() && !met.is_all() {
            moments.first.expect_writes(params.range(id));
            moments.second.expect_writes(params.range(id));
        }
        met.extend(rows);
        rows.clear();
    }
    let pieces = pieces(params);
    let (mut w, mut m, mut v) = (params.flat_mut(), &mut moments.first[..], &mut moments.second[..]);
    let work: Vec<_> = (pieces.iter())
        .filter_map(|piece| {
            let n = piece.rows.len() * piece.width;
            let slices =
                (w.split_off_mut(..n)?, g.split_off_mut(..n)?, m.split_off_mut(..n)?, v.split_off_mut(..n)?);
            Some((piece, slices))
        })
        .collect();
    work.into_par_iter().for_each(|(piece, (w, g, m, v))| {
        let keep = if piece.decay { keep } else { 1.0 };
        for (rows, met) in met[piece.param].stretches(piece.rows.clone()) {
            let at = |row: usize| (row - piece.rows.start) * piece.width;
            let values = at(rows.start)..at(rows.end);
            let w = &mut w[values.clone()];
            if met {
                let noise = noise.wrapping_add((piece.start + values.start) as u32);
                let (g, m, v) = (&mut g[values.clone()], &mut m[values.clone()], &mut v[values]);
                adamw(rule, keep, noise, w, g, m, v);
            } else {
                w.iter_mut().for_each(|w| *w *= keep);
            }
        }
    });
}

/// A run of whole rows of one parameter: a unit of parallel work.
struct Piece {
    param: usize,
    /// Place of its first value among all parameters.
    start: usize,
    rows: Range<usize>,
    width: usize,
    decay: bool,
}

/// Pieces of about [`CHUNK`] values that cover the parameters in layout order.
fn pieces(params: &Params) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (param, (spec, id)) in params.specs().iter().zip(params.ids()).enumerate() {
        let count = spec.shape[0];
        let width = spec.count() / count.max(1);
        let step = (CHUNK / width.max(1)).max(1);
        pieces.extend((0..count).step_by(step).map(|start| Piece {
            param,
            start: params.range(id).start + start * width,
            rows: start..(start + step).min(count),
            width,
            decay: spec.decay,
        }));
    }
    pieces
}

/// L2 norm of all gradients: squares are summed in f64 per fixed piece, the pieces in order. Finite unless a gradient
/// is not.
fn norm(params: &Params, grads: &Grads) -> f64 {
    let sums: Vec<f64> = pieces(params)
        .into_par_iter()
        .map(|piece| {
            let id = ParamId::new(piece.param);
            let values = grads.of(id);
            let stretches = grads.rows(id).stretches(piece.rows.clone());
            let known = stretches.filter(|(_, known)| *known);
            known
                .map(|(rows, _)| sum_of_squares(&values[rows.start * piece.width..rows.end * piece.width]))
                .sum()
        })
        .collect();
    sums.iter().sum::<f64>().sqrt()
}

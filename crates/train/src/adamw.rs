//! AdamW over the flat parameter buffer in two passes: one reads the gradient for its norm, one updates everything.

use herd_run::SettingError;
use herd_tensor::{Grads, Params};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Elements per unit of parallel work. Fixed, so that sums are the same bits for any number of threads.
const CHUNK: usize = 1 << 15;

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
}

impl Default for AdamWSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-5, weight_decay: 0.1, clip: 1.0 }
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
        for (key, value) in [("eps", self.eps), ("weight_decay", self.weight_decay), ("clip", self.clip)] {
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
pub struct AdamW {
    settings: AdamWSettings,
    /// First moments, laid out as the parameters.
    first: Vec<f32>,
    /// Second moments.
    second: Vec<f32>,
    steps: u64,
    /// Stretches of at most CHUNK parameters with one decay flag, covering the buffer in order.
    stretches: Vec<(Range<usize>, bool)>,
}

impl AdamW {
    /// An optimizer for a set of parameters; its moments begin at zero.
    pub fn new(params: &Params, settings: AdamWSettings) -> Self {
        let size = params.flat().len();
        Self {
            settings,
            first: vec![0.0; size],
            second: vec![0.0; size],
            steps: 0,
            stretches: stretches(params),
        }
    }

    /// Steps applied so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// First and second moments, laid out as [`Params::flat`].
    pub fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first, &self.second)
    }

    /// Moments to be overwritten from a checkpoint of a model with the same parameters, after `steps` steps.
    pub fn restore(&mut self, steps: u64) -> (&mut [f32], &mut [f32]) {
        self.steps = steps;
        (&mut self.first, &mut self.second)
    }

    /// Applies one step with learning rate `lr` and clears the gradients for the next.
    ///
    /// If the gradient holds a NaN or an infinity, parameters and moments stay as they were, the gradients are
    /// cleared and [`NonFinite`] is returned.
    pub fn step(&mut self, params: &mut Params, grads: &mut Grads, lr: f64) -> Result<StepStats, NonFinite> {
        let norm = norm(grads.flat());
        if !norm.is_finite() {
            grads.zero();
            return Err(NonFinite { norm });
        }
        self.steps += 1;
        let s = &self.settings;
        let clip = if s.clip > 0.0 && norm > s.clip { s.clip / norm } else { 1.0 };
        let t = self.steps.min(i32::MAX as u64) as i32;
        let rule = Rule {
            clip: clip as f32,
            b1: s.beta1 as f32,
            b2: s.beta2 as f32,
            rate: (lr / (1.0 - s.beta1.powi(t))) as f32,
            root: (1.0 / (1.0 - s.beta2.powi(t)).sqrt()) as f32,
            eps: s.eps as f32,
        };
        let keep = (1.0 - lr * s.weight_decay) as f32;
        let (mut w, mut g) = (params.flat_mut(), grads.flat_mut());
        let (mut m, mut v) = (&mut self.first[..], &mut self.second[..]);
        let pieces = self.stretches.iter().filter_map(|(range, decay)| {
            let n = range.len();
            let piece =
                (w.split_off_mut(..n)?, g.split_off_mut(..n)?, m.split_off_mut(..n)?, v.split_off_mut(..n)?);
            Some((piece, if *decay { keep } else { 1.0 }))
        });
        let work: Vec<_> = pieces.collect();
        work.into_par_iter().for_each(|((w, g, m, v), keep)| rule.update(w, g, m, v, keep));
        Ok(StepStats { grad_norm: norm })
    }
}

/// The numbers of one step that are the same for every weight.
struct Rule {
    clip: f32,
    b1: f32,
    b2: f32,
    rate: f32,
    root: f32,
    eps: f32,
}

impl Rule {
    fn update(&self, w: &mut [f32], g: &mut [f32], m: &mut [f32], v: &mut [f32], keep: f32) {
        for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
            let grad = *g * self.clip;
            *g = 0.0;
            *m = self.b1 * *m + (1.0 - self.b1) * grad;
            *v = self.b2 * *v + (1.0 - self.b2) * grad * grad;
            *w = *w * keep - self.rate * *m / (v.sqrt() * self.root + self.eps);
        }
    }
}

/// L2 norm of a buffer: squares are summed in f64 per fixed chunk, the chunks in order. Finite unless an element is
/// not (f32 squares cannot overflow f64).
pub fn norm(values: &[f32]) -> f64 {
    let sums: Vec<f64> = values
        .par_chunks(CHUNK)
        .map(|chunk| {
            // Eight running sums let the loop use vector registers; their order is part of the result.
            let mut lanes = [0f64; 8];
            let (body, tail) = chunk.as_chunks::<8>();
            for eight in body {
                for (lane, &x) in lanes.iter_mut().zip(eight) {
                    *lane += x as f64 * x as f64;
                }
            }
            lanes.iter().sum::<f64>() + tail.iter().map(|&x| x as f64 * x as f64).sum::<f64>()
        })
        .collect();
    sums.iter().sum::<f64>().sqrt()
}

fn stretches(params: &Params) -> Vec<(Range<usize>, bool)> {
    let mut out = Vec::new();
    for id in params.ids() {
        let range = params.range(id);
        let starts = range.clone().step_by(CHUNK);
        out.extend(starts.map(|at| (at..range.end.min(at + CHUNK), params.spec(id).decay)));
    }
    out
}

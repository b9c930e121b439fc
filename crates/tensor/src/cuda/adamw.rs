//! AdamW (`kernels/adamw.rs`) over parameters, gradients and moments on a card.

use super::{Arg, CardBuffer, CardError, DType, THREADS};
use crate::{Grads, Params};
use std::ops::Range;

/// Blocks that sum squares for the norm, at most: part of the result's bits.
const SHARES: usize = 1024;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct CardRule {
    /// Gradients of a larger norm are scaled down to it; 0 turns that off.
    pub max_norm: f32,
    /// What weights that decay are multiplied by.
    pub keep: f32,
    /// Decay of the first moment.
    pub b1: f32,
    /// Decay of the second moment.
    pub b2: f32,
    /// Learning rate, divided by the first moment's bias correction.
    pub rate: f32,
    /// Inverse root of the second moment's bias correction.
    pub root: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

/// Moments in f32, and what a step needs.
pub struct CardAdamW {
    moments: [CardBuffer; 2],
    shares: CardBuffer,
    clip: CardBuffer,
    norm: CardBuffer,
    /// Stretches of parameters that lie side by side and are treated alike.
    stretches: Vec<(Range<usize>, bool)>,
}

impl CardAdamW {
    /// Moments of zero for parameters that are on a card. Panics if they are not.
    ///
    /// # Errors
    /// The card has not enough memory, or failed.
    pub fn new(params: &Params) -> Result<Self, CardError> {
        let card = params.on_card().expect("the parameters are on a card").card();
        let moments = || CardBuffer::zeroed(card, params.count() * size_of::<f32>());
        let mut stretches: Vec<(Range<usize>, bool)> = Vec::new();
        for (spec, id) in params.specs().iter().zip(params.ids()) {
            let range = params.range(id);
            match stretches.last_mut() {
                Some((before, decay)) if *decay == spec.decay => before.end = range.end,
                _ => stretches.push((range, spec.decay)),
            }
        }
        Ok(Self {
            moments: [moments()?, moments()?],
            shares: CardBuffer::stale(card, SHARES * size_of::<f64>())?,
            clip: CardBuffer::stale(card, size_of::<f32>())?,
            norm: CardBuffer::stale(card, size_of::<f64>())?,
            stretches,
        })
    }

    /// First and second moments, laid out as [`Params::flat`].
    pub fn moments(&self) -> &[CardBuffer; 2] {
        &self.moments
    }

    /// Asks for one step and for the gradients to be cleared. If the gradient is not finite, parameters and moments stay
    /// as they are. Nothing waits for the card.
    ///
    /// # Errors
    /// The card failed.
    pub fn step(&mut self, rule: CardRule, params: &mut Params, grads: &mut Grads) -> Result<(), CardError> {
        params.card_changes();
        let on = params.on_card().expect("the parameters are on a card");
        let (card, activations) = (on.card(), on.activations());
        let g = grads.card_mut().expect("gradients are where parameters are");
        let count = params.count();
        let shares = count.div_ceil(THREADS).clamp(1, SHARES);
        let arguments = [Arg::from(g), (&self.shares).into(), count.into()];
        card.launch(activations, "sum_of_squares", (shares, 1), &arguments)?;
        let [clip, norm] = [Arg::from(&self.clip), (&self.norm).into()];
        let arguments = [(&self.shares).into(), (shares as i32).into(), rule.max_norm.into(), clip, norm];
        card.launch(activations, "clip_factor", (1, 1), &arguments)?;
        let (values, copy) = on.values();
        for (range, decay) in &self.stretches {
            let at = |buffer: &CardBuffer, dtype: DType| {
                Arg::from(buffer.address() + (range.start * dtype.size()) as u64)
            };
            let [m, v] = self.moments.each_ref().map(|moments| at(moments, DType::F32));
            let copy = copy.map_or(Arg::from(0u64), |copy| at(copy, DType::Bf16));
            let keep = if *decay { rule.keep } else { 1.0 };
            let buffers = [at(values, DType::F32), at(g, DType::F32), m, v, copy, clip, range.len().into()];
            let numbers = [keep, rule.b1, rule.b2, rule.rate, rule.root, rule.eps].map(Arg::from);
            let arguments: Vec<Arg> = buffers.into_iter().chain(numbers).collect();
            card.launch(activations, "adamw", (range.len().div_ceil(THREADS), 1), &arguments)?;
        }
        Ok(())
    }

    /// Waits for the last step and returns the norm of its gradient before clipping; not finite if the step was left
    /// out.
    ///
    /// # Errors
    /// The card failed.
    pub fn norm(&self) -> Result<f64, CardError> {
        let mut norm = [0f64];
        self.norm.read(&mut norm)?;
        Ok(norm[0])
    }
}

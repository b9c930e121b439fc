//! AdamW (`kernels/adamw.rs`) over parameters, gradients and moments on a card.

use super::{Arg, CardBuffer, CardDownload, CardError, DType, THREADS};
use crate::{Grads, Params, Tensor};
use std::ops::Range;

/// Blocks that sum squares for the norm, at most: part of the result's bits.
const SHARES: usize = 1024;

/// The numbers of one step.
#[derive(Clone, Copy, Debug)]
pub struct CardRule {
    /// Gradients of a larger norm are scaled down to it; 0 turns that off.
    pub max_norm: f64,
    /// What weights that decay are multiplied by.
    pub keep: f32,
    /// Decay of the first moment.
    pub b1: f64,
    /// Decay of the second moment.
    pub b2: f64,
    /// Learning rate.
    pub rate: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Steps that may be left out because something is not finite; after one more all are.
    pub left_out_at_most: u32,
}

/// Moments in f32, and what a step needs.
pub struct CardAdamW {
    moments: [CardBuffer; 2],
    shares: CardBuffer,
    /// `Counts` of the kernels.
    counts: CardBuffer,
    /// `Rule` of the kernels.
    rule: CardBuffer,
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
            counts: CardBuffer::zeroed(card, 2 * size_of::<u32>())?,
            rule: CardBuffer::stale(card, 4 * size_of::<f32>())?,
            stretches,
        })
    }

    /// First and second moments, laid out as [`Params::flat`].
    pub fn moments(&self) -> &[CardBuffer; 2] {
        &self.moments
    }

    /// Sets the number of steps that were applied, and that of steps left out to 0.
    ///
    /// # Errors
    /// The card failed.
    pub fn count_from(&self, steps: u64) -> Result<(), CardError> {
        self.counts.overwrite(&[u32::try_from(steps).unwrap_or(u32::MAX), 0])
    }

    /// Asks for one step and for the gradients to be cleared. If the gradient or one of the losses, scalars on the card, is
    /// not finite, parameters and moments stay as they are. Nothing waits for the card.
    ///
    /// # Errors
    /// The card failed.
    pub fn step(
        &mut self,
        rule: CardRule,
        losses: &[Tensor],
        params: &mut Params,
        grads: &mut Grads,
    ) -> Result<CardReport, CardError> {
        params.card_changes();
        let on = params.on_card().expect("the parameters are on a card");
        let (card, activations) = (on.card(), on.activations());
        let pass = card.pass();
        let of_host = CardBuffer::input(card, &[rule.rate, f64::from(rule.keep)], 2)?;
        let g = grads.card_mut().expect("gradients are where parameters are");
        let report = CardBuffer::stale(card, size_of::<f64>() + losses.len() * size_of::<f32>())?;
        for (i, loss) in losses.iter().enumerate() {
            let to = report.address() + (size_of::<f64>() + i * size_of::<f32>()) as u64;
            card.copy(loss.place().0.address(), to, size_of::<f32>())?;
        }
        let count = params.count();
        let shares = count.div_ceil(THREADS).clamp(1, SHARES);
        let arguments = [Arg::from(g), (&self.shares).into(), count.into()];
        card.launch(activations, "sum_of_squares", (shares, 1), &arguments)?;
        let shares = [Arg::from(&self.shares), (shares as i32).into()];
        let seen = [Arg::from(&report), (losses.len() as i32).into(), rule.left_out_at_most.into()];
        let numbers = [rule.max_norm.into(), Arg::from(&of_host), rule.b1.into(), rule.b2.into()];
        let made = [Arg::from(&self.counts), (&self.rule).into()];
        let arguments: Vec<Arg> = shares.into_iter().chain(seen).chain(numbers).chain(made).collect();
        card.launch(activations, "adamw_rule", (1, 1), &arguments)?;
        let (values, copy) = on.values();
        for (range, decay) in &self.stretches {
            let at = |buffer: &CardBuffer, dtype: DType| {
                Arg::from(buffer.address() + (range.start * dtype.size()) as u64)
            };
            let [m, v] = self.moments.each_ref().map(|moments| at(moments, DType::F32));
            let copy = copy.map_or(Arg::from(0u64), |copy| at(copy, DType::Bf16));
            let buffers = [at(values, DType::F32), at(g, DType::F32), m, v, copy, (&self.rule).into()];
            let numbers = [rule.b1, rule.b2, rule.eps].map(|number| Arg::from(number as f32));
            let sizes = [range.len().into(), i32::from(*decay).into()];
            let arguments: Vec<Arg> = buffers.into_iter().chain(sizes).chain(numbers).collect();
            card.launch(activations, "adamw", (range.len().div_ceil(THREADS), 1), &arguments)?;
        }
        pass.run()?;
        Ok(CardReport { values: report.read_later()? })
    }
}

/// What a step does, on its way to the host.
pub struct CardReport {
    values: CardDownload,
}

impl CardReport {
    /// Waits for the step. The norm of its gradient before clipping, and its losses; if one of them is not finite, it was
    /// left out.
    ///
    /// # Errors
    /// The card failed.
    pub fn wait(self) -> Result<(f64, Vec<f32>), CardError> {
        let bytes = self.values.wait()?;
        let (norm, losses) = bytes.split_at(size_of::<f64>());
        Ok((
            bytemuck::pod_read_unaligned(norm),
            losses.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
        ))
    }
}

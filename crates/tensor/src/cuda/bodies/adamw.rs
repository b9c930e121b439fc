//! AdamW on a card: the norm, the rule that follows from it, and the update, without the host waiting for any.

use super::{Place, at, int, size, uploaded};
use crate::cuda::card::{Arg, Grid};
use crate::cuda::{Block, Later};
use crate::kernels::Moment;
use crate::{Flat, Grads, Params};

/// Most blocks that share the sum of squares.
const SHARES: usize = 1024;
/// Values of a block at least.
const SHARE_VALUES: usize = 1 << 16;

/// Settings of one step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Norm above which the gradient is scaled down; 0 never.
    pub max_norm: f32,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub b1: f32,
    /// Decay of the second moment.
    pub b2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

/// What the optimizer keeps on a card besides the moments: how many steps were applied.
pub struct AdamWOnCard {
    place: Place,
    steps: Block,
    rule: Block,
    shares: Block,
}

impl AdamWOnCard {
    /// For parameters on a card, after `steps` steps; `None` if they lie elsewhere.
    pub fn new(params: &Params, steps: u64) -> Option<Self> {
        let place = params.place()?;
        let card = place.card;
        let steps = uploaded(card, &[steps as u32]);
        Some(Self { place, steps, rule: card.block(16), shares: card.block(8 * SHARES) })
    }

    /// Says how many steps were applied, as a checkpoint tells.
    pub fn set_steps(&self, steps: u64) {
        let card = self.place.card;
        let result = card.staging().upload(card, self.steps.at(), &(steps as u32).to_ne_bytes());
        result.unwrap_or_else(|error| panic!("card: {error}"));
    }

    /// Enqueues a step: clips, updates, clears the gradients. If the norm or one of the losses that lie on the card is not
    /// finite, only the latter. Returns the norm of the gradient, and 1 if the step was
    /// applied, when they are known.
    pub fn step<M: Moment>(
        &self,
        params: &mut Params,
        grads: &mut Grads,
        moments: [&mut Flat<M>; 2],
        step: &AdamWStep,
        losses: &[Later],
    ) -> Later {
        let Place { card, dtype } = self.place;
        let n = params.count();
        let g = grads.all_at_mut();
        // Part of the result's bits, so it depends on the number of parameters alone.
        let shares = n.div_ceil(SHARE_VALUES).clamp(1, SHARES);
        card.launch(dtype, c"sum_of_squares", Grid::rows(shares), &[Arg::Word(g), at(&self.shares), size(n)]);
        let each = card.block(4 * losses.len());
        let loss = card.block(4);
        for (i, later) in losses.iter().enumerate() {
            let result = later.copy_to(each.at() + 4 * i as u64);
            result.unwrap_or_else(|error| panic!("card: {error}"));
        }
        card.launch(dtype, c"sum", Grid::rows(1), &[at(&each), at(&loss), size(losses.len())]);
        let report = card.block(8);
        let [b1, b2] = [step.b1, step.b2].map(Arg::Float);
        let (norm, lr) = (Arg::Float(step.max_norm), Arg::Float(step.lr as f32));
        let args = [
            at(&self.shares),
            int(shares),
            at(&loss),
            norm,
            lr,
            b1,
            b2,
            at(&self.steps),
            at(&self.rule),
            at(&report),
        ];
        card.launch(dtype, c"adamw_rule", Grid::rows(1), &args);

        let kernel = if size_of::<M>() == 4 { c"adamw_f32" } else { c"adamw_bf16" };
        let [first, second] = moments.map(Flat::at_mut);
        let width = size_of::<M>() as u64;
        let (w, copy) = params.written_at();
        for id in params.ids() {
            let range = params.range(id);
            let (start, count) = (range.start as u64, range.len());
            let keep = if params.spec(id).decay { (1.0 - step.lr * step.weight_decay) as f32 } else { 1.0 };
            let args = [
                Arg::Word(w + 4 * start),
                Arg::Word(g + 4 * start),
                Arg::Word(first + width * start),
                Arg::Word(second + width * start),
                Arg::Word(copy.map_or(0, |copy| copy + 2 * start)),
                at(&self.rule),
                at(&self.steps),
                size(count),
                Arg::Word(start),
                Arg::Float(keep),
                b1,
                b2,
                Arg::Float(step.eps),
            ];
            card.launch(dtype, kernel, Grid::values(count), &args);
        }
        Later::coming(report, 2).unwrap_or_else(|error| panic!("card: {error}"))
    }
}

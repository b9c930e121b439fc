//! Supervised fine-tuning (SPEC POST-5): cross-entropy on the assistant's tokens only.

use crate::examples::Dialog;
use crate::optimize::{Objective, Values};
use crate::pack::{Packer, chunks, plan};
use crate::settings::SftSettings;
use herd_model::{Batch, Llama};
use herd_tensor::{Grads, Params, Tape};

/// Training on dialogs packed without padding, blind to each other.
pub(crate) struct SftObjective<'a> {
    llama: &'a Llama,
    dialogs: &'a [Dialog],
    /// Indices into `dialogs`, a dialog of a repeated task several times.
    examples: Vec<usize>,
    held_out: &'a [Dialog],
    steps: Vec<Vec<usize>>,
    batch_tokens: usize,
}

/// Rows of packed dialogs: `targets[i]` follows row `i`, with weight 1 if it is learned.
fn pack(dialogs: &[&Dialog]) -> (Batch, Vec<u32>, Vec<f32>) {
    let mut packer = Packer::default();
    let (mut targets, mut weights) = (Vec::new(), Vec::new());
    for dialog in dialogs {
        packer.dialog(&dialog.tokens);
        targets.extend_from_slice(&dialog.tokens[1..]);
        weights.extend(dialog.learned[1..].iter().map(|&learned| f32::from(u8::from(learned))));
        // The last token of a dialog predicts nothing.
        targets.push(0);
        weights.push(0.0);
    }
    (packer.finish(), targets, weights)
}

impl<'a> SftObjective<'a> {
    pub fn new(
        llama: &'a Llama,
        dialogs: &'a [Dialog],
        held_out: &'a [Dialog],
        settings: &SftSettings,
        seed: u64,
    ) -> Self {
        let repeat =
            |d: &Dialog| d.task.as_ref().and_then(|task| settings.repeat.get(task)).copied().unwrap_or(1);
        let examples: Vec<usize> =
            dialogs.iter().enumerate().flat_map(|(i, d)| std::iter::repeat_n(i, repeat(d))).collect();
        let lengths: Vec<usize> = examples.iter().map(|&e| dialogs[e].tokens.len()).collect();
        let steps = plan(&lengths, settings.train.batch_tokens, settings.train.epochs, seed);
        Self { llama, dialogs, examples, held_out, steps, batch_tokens: settings.train.batch_tokens }
    }

    /// Mean loss over the learned tokens of the held-out dialogs.
    pub fn held_out_loss(&self, params: &Params) -> f64 {
        let lengths: Vec<usize> = self.held_out.iter().map(|d| d.tokens.len()).collect();
        let (mut nll, mut tokens) = (0.0, 0.0);
        for chunk in chunks(&lengths, self.batch_tokens) {
            let (batch, targets, weights) = pack(&self.held_out[chunk].iter().collect::<Vec<_>>());
            let mut tape = Tape::no_grad(params);
            let hidden = self.llama.hidden(&mut tape, &batch);
            let sum = tape.linear_cross_entropy(&hidden, self.llama.head(), &targets, &weights);
            nll += f64::from(sum.value().item());
            tokens += weights.iter().map(|&w| f64::from(w)).sum::<f64>();
        }
        nll / f64::max(tokens, 1.0)
    }
}

impl Objective for SftObjective<'_> {
    fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    fn step(&self, step: u64, params: &Params, grads: &mut Grads) -> Values {
        let dialogs: Vec<&Dialog> =
            self.steps[step as usize].iter().map(|&e| &self.dialogs[self.examples[e]]).collect();
        let (batch, targets, mut weights) = pack(&dialogs);
        let tokens: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= tokens.max(1.0));
        let mut tape = Tape::new(params);
        let hidden = self.llama.hidden(&mut tape, &batch);
        let loss = tape.cross_entropy_backward(&hidden, self.llama.head(), &targets, &weights, grads);
        vec![("loss", f64::from(loss)), ("learned_tokens", f64::from(tokens))]
    }

    fn held_out(&self, params: &Params) -> Values {
        vec![("held_out_loss", self.held_out_loss(params))]
    }
}

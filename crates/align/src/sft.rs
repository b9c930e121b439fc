//! Supervised fine-tuning (SPEC POST-5): cross-entropy on the assistant's tokens only.

use crate::examples::Dialog;
use crate::optimize::{Objective, Values, add};
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
    micro_batch_tokens: usize,
}

/// How many tokens all dialogs begin with in common, such as the date that Llama 3.1's template puts before every
/// dialog. The row that predicts a dialog's first learned token stays its own.
fn shared_beginning<'d>(dialogs: impl IntoIterator<Item = &'d Dialog>) -> usize {
    let mut dialogs = dialogs.into_iter();
    let Some(first) = dialogs.next() else { return 0 };
    let private = |d: &Dialog| {
        d.learned.iter().position(|&learned| learned).unwrap_or(d.tokens.len()).saturating_sub(1)
    };
    dialogs.fold(private(first), |shared, dialog| {
        let same = first.tokens.iter().zip(&dialog.tokens).take_while(|(a, b)| a == b).count();
        shared.min(same).min(private(dialog))
    })
}

/// Rows of packed dialogs: `targets[i]` follows row `i`, with weight 1 if it is learned. What all begin with takes
/// rows once: every dialog attends to them, and their gradients add up, as if each had them to itself.
fn pack(dialogs: &[&Dialog]) -> (Batch, Vec<u32>, Vec<f32>) {
    let mut packer = Packer::default();
    let shared = shared_beginning(dialogs.iter().copied());
    let prefix = if shared > 0 { packer.dialog(&dialogs[0].tokens[..shared]) } else { 0..0 };
    let (mut targets, mut weights) = (vec![0; shared], vec![0.0; shared]);
    for dialog in dialogs {
        packer.continuation(&dialog.tokens[shared..], &prefix);
        targets.extend_from_slice(&dialog.tokens[shared + 1..]);
        weights.extend(dialog.learned[shared + 1..].iter().map(|&learned| f32::from(u8::from(learned))));
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
        // Rows of a step: the shared beginning once, the rest of each dialog.
        let shared = shared_beginning(dialogs);
        let lengths: Vec<usize> = examples.iter().map(|&e| dialogs[e].tokens.len() - shared).collect();
        let steps = plan(&lengths, settings.train.batch_tokens - shared, settings.train.epochs, seed);
        Self {
            llama,
            dialogs,
            examples,
            held_out,
            steps,
            micro_batch_tokens: settings.train.micro_batch_tokens,
        }
    }

    /// Mean loss over the learned tokens of the held-out dialogs.
    pub fn held_out_loss(&self, params: &Params) -> f64 {
        let lengths: Vec<usize> = self.held_out.iter().map(|d| d.tokens.len()).collect();
        let (mut nll, mut tokens) = (0.0, 0.0);
        for chunk in chunks(&lengths, self.micro_batch_tokens) {
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
        let tokens: usize =
            dialogs.iter().map(|d| d.learned[1..].iter().filter(|&&learned| learned).count()).sum();
        let lengths: Vec<usize> = dialogs.iter().map(|d| d.tokens.len()).collect();
        let mut values = Values::new();
        for part in chunks(&lengths, self.micro_batch_tokens) {
            let (batch, targets, mut weights) = pack(&dialogs[part]);
            weights.iter_mut().for_each(|w| *w /= tokens.max(1) as f32);
            let mut tape = Tape::new(params);
            let hidden = self.llama.hidden(&mut tape, &batch);
            let loss = tape.cross_entropy_backward(hidden, self.llama.head(), &targets, &weights, grads);
            add(&mut values, vec![("loss", f64::from(loss))]);
        }
        values.push(("learned_tokens", tokens as f64));
        values
    }

    fn held_out(&self, params: &Params) -> Values {
        vec![("held_out_loss", self.held_out_loss(params))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialog(tokens: &[u32], first_learned: usize) -> Dialog {
        let learned = (0..tokens.len()).map(|i| i >= first_learned).collect();
        Dialog { tokens: tokens.to_vec(), learned, task: None }
    }

    #[test]
    fn a_shared_beginning_lies_in_the_rows_once() {
        let dialogs = [dialog(&[1, 2, 3, 7, 8], 3), dialog(&[1, 2, 4, 5, 9], 4)];
        let (batch, targets, weights) = pack(&[&dialogs[0], &dialogs[1]]);
        assert_eq!(batch.tokens, [1, 2, 3, 7, 8, 4, 5, 9]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 2, 3, 4]);
        let learned: Vec<u32> =
            targets.iter().zip(&weights).filter(|(_, w)| **w > 0.0).map(|(t, _)| *t).collect();
        assert_eq!(learned, [7, 8, 9]);
        assert!(batch.segments.list()[2].prefix == (0..2));
    }

    #[test]
    fn the_row_before_the_first_learned_token_is_never_shared() {
        let twins = [dialog(&[1, 2, 3, 7], 3), dialog(&[1, 2, 3, 8], 3)];
        assert_eq!(shared_beginning(&twins), 2);
        assert_eq!(shared_beginning(&[dialog(&[1, 2], 0), dialog(&[1, 2], 1)]), 0);
        assert_eq!(shared_beginning(&[]), 0);
    }
}

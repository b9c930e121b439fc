//! Direct preference optimisation (SPEC POST-6): the best response of a prompt against its worst, format tokens not
//! counted, the likelihood of the better one held up.

use crate::examples::Group;
use crate::loss::{Dpo, DpoOutcome, PairLogprobs};
use crate::optimize::{Objective, Values, add};
use crate::pack::{Packer, chunks, plan};
use crate::settings::DpoSettings;
use herd_model::Llama;
use herd_tensor::{Grads, Params, Tape, Tensor, Var};
use std::ops::Range;

/// Summed log p of the best and of the worst response of a group.
pub(crate) type Reference = (f32, f32);

/// Training on pairs; both responses of a prompt share its rows.
pub(crate) struct DpoObjective<'a> {
    llama: &'a Llama,
    loss: Dpo,
    groups: &'a [Group],
    references: Vec<Reference>,
    held_out: &'a [Group],
    held_out_references: Vec<Reference>,
    steps: Vec<Vec<usize>>,
    micro_batch_tokens: usize,
}

/// Which counted tokens of a batch belong to a group's best and to its worst response.
type Sides = (Range<usize>, Range<usize>);

/// Log p of every counted token, and whose they are.
fn forward(tape: &mut Tape, llama: &Llama, groups: &[&Group]) -> (Var, Vec<Sides>) {
    let mut packer = Packer::default();
    let (mut predictors, mut targets, mut sides) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        let ends = [&group.responses[0], &group.responses[group.responses.len() - 1]];
        let rows = packer.group(&group.prompt, &ends.map(|r| r.tokens.as_slice()), &[0, 1]);
        let mut counted = |side: usize| {
            let start = targets.len();
            for (index, &token) in ends[side].tokens.iter().enumerate() {
                if ends[side].counted[index] {
                    predictors.push(rows.predictor(side, index));
                    targets.push(token);
                }
            }
            start..targets.len()
        };
        sides.push((counted(0), counted(1)));
    }
    let hidden = llama.hidden(tape, &packer.finish());
    let selected = tape.select_rows(&hidden, &predictors);
    (tape.token_logprobs(&selected, llama.head(), &targets), sides)
}

/// Summed log p of both responses of every group under a fixed model, on the same tape operators that training uses, so that
/// the first step starts from a margin of exactly 0.
pub(crate) fn references(
    llama: &Llama,
    params: &Params,
    groups: &[Group],
    micro_batch_tokens: usize,
) -> Vec<Reference> {
    let lengths: Vec<usize> = groups.iter().map(Group::rows).collect();
    let mut all = Vec::with_capacity(groups.len());
    for chunk in chunks(&lengths, micro_batch_tokens) {
        let mut tape = Tape::no_grad(params);
        let (logprobs, sides) = forward(&mut tape, llama, &groups[chunk].iter().collect::<Vec<_>>());
        let sum = |range: &Range<usize>| -> f32 {
            logprobs.value().as_slice()[range.clone()].iter().map(|&l| f64::from(l)).sum::<f64>() as f32
        };
        all.extend(sides.iter().map(|(best, worst)| (sum(best), sum(worst))));
    }
    all
}

fn evaluate(
    loss: &Dpo,
    logprobs: &[f32],
    sides: &[Sides],
    references: &[Reference],
    (pairs, chosen_tokens): (usize, usize),
) -> DpoOutcome {
    let logprobs: Vec<f64> = logprobs.iter().map(|&l| f64::from(l)).collect();
    let pair = |((best, worst), reference): (&Sides, &Reference)| PairLogprobs {
        chosen: &logprobs[best.clone()],
        rejected: &logprobs[worst.clone()],
        reference_chosen: f64::from(reference.0),
        reference_rejected: f64::from(reference.1),
    };
    let part: Vec<PairLogprobs> = sides.iter().zip(references).map(pair).collect();
    loss.evaluate_part(&part, pairs, chosen_tokens)
}

impl<'a> DpoObjective<'a> {
    /// `references` and `held_out_references` belong to the groups, one for one.
    pub fn new(
        llama: &'a Llama,
        (groups, references): (&'a [Group], Vec<Reference>),
        (held_out, held_out_references): (&'a [Group], Vec<Reference>),
        settings: &DpoSettings,
        seed: u64,
    ) -> Self {
        let lengths: Vec<usize> = groups.iter().map(Group::rows).collect();
        let micro_batch_tokens = settings.train.micro_batch_tokens;
        let steps = plan(&lengths, settings.train.batch_tokens, settings.train.epochs, seed);
        let loss = Dpo { beta: settings.beta, nll: settings.nll };
        Self { llama, loss, groups, references, held_out, held_out_references, steps, micro_batch_tokens }
    }

    /// The loss on the held-out pairs.
    pub fn held_out_outcome(&self, params: &Params) -> DpoOutcome {
        let lengths: Vec<usize> = self.held_out.iter().map(Group::rows).collect();
        let (mut logprobs, mut sides) = (Vec::new(), Vec::new());
        for chunk in chunks(&lengths, self.micro_batch_tokens) {
            let mut tape = Tape::no_grad(params);
            let (values, ranges) =
                forward(&mut tape, self.llama, &self.held_out[chunk].iter().collect::<Vec<_>>());
            let offset = logprobs.len();
            let shift = |r: Range<usize>| r.start + offset..r.end + offset;
            sides.extend(ranges.into_iter().map(|(best, worst)| (shift(best), shift(worst))));
            logprobs.extend_from_slice(values.value().as_slice());
        }
        let totals = (sides.len(), sides.iter().map(|(best, _)| best.len()).sum());
        evaluate(&self.loss, &logprobs, &sides, &self.held_out_references, totals)
    }
}

impl Objective for DpoObjective<'_> {
    fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    fn step(&self, step: u64, params: &Params, grads: &mut Grads) -> Values {
        let chosen = &self.steps[step as usize];
        let groups: Vec<&Group> = chosen.iter().map(|&e| &self.groups[e]).collect();
        let references: Vec<Reference> = chosen.iter().map(|&e| self.references[e]).collect();
        let counted = |g: &&Group| g.responses[0].counted.iter().filter(|&&c| c).count();
        let totals = (groups.len(), groups.iter().map(counted).sum());
        let lengths: Vec<usize> = groups.iter().map(|g| g.rows()).collect();
        let mut values = Values::new();
        for part in chunks(&lengths, self.micro_batch_tokens) {
            let mut tape = Tape::new(params);
            let (logprobs, sides) = forward(&mut tape, self.llama, &groups[part.clone()]);
            let outcome =
                evaluate(&self.loss, logprobs.value().as_slice(), &sides, &references[part], totals);
            let mut gradient = vec![0.0; logprobs.value().len()];
            for ((best, worst), &(for_best, for_worst)) in sides.iter().zip(&outcome.gradient) {
                gradient[best.clone()].fill(for_best as f32);
                gradient[worst.clone()].fill(for_worst as f32);
            }
            let gradient = Tensor::from_slice(&gradient, logprobs.shape());
            tape.backward_from([(logprobs, gradient)], grads);
            let part = vec![
                ("loss", outcome.loss),
                ("preference_loss", outcome.preference),
                ("nll", outcome.nll),
                ("margin", outcome.margin),
                ("accuracy", outcome.accuracy),
                ("logprob_chosen", outcome.chosen),
                ("logprob_rejected", outcome.rejected),
            ];
            add(&mut values, part);
        }
        values
    }

    fn held_out(&self, params: &Params) -> Values {
        let outcome = self.held_out_outcome(params);
        vec![
            ("held_out_loss", outcome.loss),
            ("held_out_margin", outcome.margin),
            ("held_out_accuracy", outcome.accuracy),
            ("held_out_logprob_chosen", outcome.chosen),
            ("held_out_logprob_rejected", outcome.rejected),
        ]
    }
}

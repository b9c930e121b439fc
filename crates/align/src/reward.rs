//! The reward model (SPEC POST-3): the pre-trained Llama with a head of one output, read at a response's last token.

use crate::Error;
use crate::examples::{Group, Response};
use crate::loss::{ordered_pairs, ranking, ranking_part};
use crate::optimize::{Objective, Values, add};
use crate::pack::{GroupRows, Packer, chunks, plan, similarity};
use crate::settings::Optimization;
use crate::summary::Accuracy;
use herd_model::{Head, Llama, weights};
use herd_run::Random;
use herd_tensor::{Grads, ParamId, Params, Tape, Tensor, Var};
use std::path::Path;

/// A Llama with a reward head.
pub struct RewardModel {
    /// The Llama, its head [`Head::Reward`].
    pub llama: Llama,
    /// All parameters.
    pub params: Params,
}

impl RewardModel {
    /// Puts a fresh head, all zeros, on a pre-trained language model: at first every response is worth 0.
    pub fn on(base: &Llama, base_params: &Params) -> Self {
        let llama = Llama::with_head(base.config.clone(), Head::Reward);
        let mut params = llama.params();
        let shared: Vec<ParamId> = params.ids().filter(|&id| id != llama.head()).collect();
        for id in shared {
            // The two models differ in their heads alone, so every other parameter has its namesake.
            if let Some(from) = base_params.id(&params.spec(id).name) {
                params.value_mut(id).copy_from_slice(base_params.value(from));
            }
        }
        Self { llama, params }
    }

    /// Reads a saved reward model.
    pub fn load(folder: &Path) -> Result<Self, Error> {
        let (llama, params) = weights::load(folder)?;
        if llama.head_kind != Head::Reward {
            let problem =
                "is a language model, not a reward model: it has no tensor `score.weight`".to_string();
            return Err(Error::Empty { file: folder.join("model.safetensors"), problem });
        }
        Ok(Self { llama, params })
    }

    /// Rewards of every response of every group, each group packed into one run of rows; `order` gives the layout of
    /// a group's responses, which must not matter.
    pub fn rewards(&self, groups: &[&Group], order: impl Fn(usize, &Group) -> Vec<usize>) -> Vec<Vec<f64>> {
        let mut tape = Tape::no_grad(&self.params);
        let rewards = forward(&mut tape, &self.llama, groups, order);
        split(rewards.value().as_slice(), groups)
    }
}

/// Rewards `[responses, 1]`, group after group, best first.
fn forward(
    tape: &mut Tape,
    llama: &Llama,
    groups: &[&Group],
    order: impl Fn(usize, &Group) -> Vec<usize>,
) -> Var {
    let mut packer = Packer::default();
    let mut last_rows = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let responses: Vec<&[u32]> = group.responses.iter().map(|r| r.tokens.as_slice()).collect();
        let GroupRows { responses, .. } = packer.group(&group.prompt, &responses, &order(index, group));
        last_rows.extend(responses.iter().map(|rows| rows.end - 1));
    }
    let hidden = llama.hidden(tape, &packer.finish());
    let last = tape.select_rows(&hidden, &last_rows);
    tape.linear(&last, llama.head())
}

fn split(values: &[f32], groups: &[&Group]) -> Vec<Vec<f64>> {
    let mut values = values.iter().map(|&v| f64::from(v));
    groups.iter().map(|g| values.by_ref().take(g.responses.len()).collect()).collect()
}

/// Leaves out responses that are too like their better neighbour; a group with one response left says nothing.
/// Returns the groups kept and how many responses were left out.
pub fn distinct(groups: Vec<Group>, max_similarity: f64) -> (Vec<Group>, usize) {
    let mut dropped = 0;
    let mut kept = Vec::new();
    for mut group in groups {
        let before = group.responses.len();
        let mut responses: Vec<Response> = Vec::new();
        for response in group.responses {
            if responses.iter().all(|r| similarity(&r.tokens, &response.tokens) <= max_similarity) {
                responses.push(response);
            }
        }
        dropped += before - responses.len();
        group.responses = responses;
        if group.responses.len() >= 2 {
            kept.push(group);
        }
    }
    (kept, dropped)
}

/// Training of the reward model.
pub(crate) struct RewardObjective<'a> {
    llama: &'a Llama,
    groups: &'a [Group],
    held_out: &'a [Group],
    steps: Vec<Vec<usize>>,
    micro_batch_tokens: usize,
    seed: u64,
}

impl<'a> RewardObjective<'a> {
    pub fn new(
        llama: &'a Llama,
        groups: &'a [Group],
        held_out: &'a [Group],
        train: &Optimization,
        seed: u64,
    ) -> Self {
        let lengths: Vec<usize> = groups.iter().map(Group::rows).collect();
        let steps = plan(&lengths, train.batch_tokens, train.epochs, seed);
        let micro_batch_tokens = train.micro_batch_tokens;
        Self { llama, groups, held_out, steps, micro_batch_tokens, seed }
    }

    fn held_out_rewards(&self, params: &Params) -> Vec<Vec<f64>> {
        let lengths: Vec<usize> = self.held_out.iter().map(Group::rows).collect();
        let mut rewards = Vec::new();
        for chunk in chunks(&lengths, self.micro_batch_tokens) {
            let groups: Vec<&Group> = self.held_out[chunk].iter().collect();
            let mut tape = Tape::no_grad(params);
            let values = forward(&mut tape, self.llama, &groups, |_, g| (0..g.responses.len()).collect());
            rewards.extend(split(values.value().as_slice(), &groups));
        }
        rewards
    }

    /// Accuracy on the held-out pairs.
    pub fn accuracy(&self, params: &Params) -> Accuracy {
        Accuracy::of(&self.held_out_rewards(params))
    }
}

impl Objective for RewardObjective<'_> {
    fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    fn step(&self, step: u64, params: &Params, grads: &mut Grads) -> Values {
        let groups: Vec<&Group> = self.steps[step as usize].iter().map(|&e| &self.groups[e]).collect();
        let pairs: usize = groups.iter().map(|g| ordered_pairs(g.responses.len())).sum();
        let lengths: Vec<usize> = groups.iter().map(|g| g.rows()).collect();
        let mut values = Values::new();
        for part in chunks(&lengths, self.micro_batch_tokens) {
            let shuffled = |index: usize, group: &Group| {
                let mut order: Vec<usize> = (0..group.responses.len()).collect();
                Random::new(self.seed, &[step, (part.start + index) as u64]).shuffle(&mut order);
                order
            };
            let groups = &groups[part.clone()];
            let mut tape = Tape::new(params);
            let rewards = forward(&mut tape, self.llama, groups, shuffled);
            let outcome = ranking_part(&split(rewards.value().as_slice(), groups), pairs);
            let gradient: Vec<f32> = outcome.gradient.concat().iter().map(|&g| g as f32).collect();
            let gradient = Tensor::from_slice(&gradient, rewards.shape());
            tape.backward_from([(rewards, gradient)], grads);
            let accuracy = outcome.correct / pairs.max(1) as f64;
            add(
                &mut values,
                vec![("loss", outcome.loss), ("accuracy", accuracy), ("margin", outcome.margin)],
            );
        }
        values
    }

    fn held_out(&self, params: &Params) -> Values {
        let rewards = self.held_out_rewards(params);
        let outcome = ranking(&rewards);
        vec![("held_out_loss", outcome.loss), ("held_out_accuracy", Accuracy::of(&rewards).score)]
    }
}

//! Packed batches on the tape against TRL's trainers on padded ones: losses, logged values and all gradients.
//! The golden files are made by `tests/golden/make_golden.py`.

use crate::dpo::{DpoObjective, references};
use crate::examples::{Dialog, Group, Response};
use crate::optimize::Objective;
use crate::reward::{RewardModel, RewardObjective};
use crate::settings::{DpoSettings, Optimization, SftSettings};
use crate::sft::SftObjective;
use herd_model::{Llama, weights};
use herd_tensor::{Grads, Params};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Golden {
    batch: Vec<GoldenGroup>,
    format: Vec<u32>,
    sft: serde_json::Value,
    dpo: serde_json::Value,
    reward: serde_json::Value,
}

#[derive(Deserialize)]
struct GoldenGroup {
    prompt: Vec<u32>,
    responses: Vec<Vec<u32>>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden() -> Golden {
    herd_run::atomic::read_json(&folder("golden.json")).unwrap()
}

impl Golden {
    fn groups(&self) -> Vec<Group> {
        let counted = |tokens: &[u32]| tokens.iter().map(|t| !self.format.contains(t)).collect();
        let response = |tokens: &Vec<u32>| Response { tokens: tokens.clone(), counted: counted(tokens) };
        let group = |g: &GoldenGroup| Group {
            prompt: g.prompt.clone(),
            responses: g.responses.iter().map(response).collect(),
            round: 1,
        };
        self.batch.iter().map(group).collect()
    }
}

/// All examples in one step, in two parts if `micro_batch_tokens` is small.
fn one_batch(micro_batch_tokens: usize) -> Optimization {
    Optimization { micro_batch_tokens, ..Optimization::default() }
}

/// Everything at once, and in parts whose gradients are accumulated.
const MICRO_BATCHES: [usize; 2] = [1000, 20];

fn close(ours: f64, theirs: &serde_json::Value, what: &str) {
    let theirs = theirs.as_f64().unwrap();
    assert!((ours - theirs).abs() < 2e-5 * theirs.abs().max(1.0), "{what}: {ours} against {theirs}");
}

/// The first step's values, and its gradient compared with the golden one.
fn step(objective: &dyn Objective, params: &Params, gradient: &str) -> Vec<(&'static str, f64)> {
    assert_eq!(objective.steps(), 1);
    let mut grads = Grads::new(params);
    let values = objective.step(0, params, &mut grads);
    let (_, golden) = weights::load(&folder(gradient)).unwrap();
    for id in params.ids() {
        let theirs = golden.value(id);
        let scale = theirs.iter().fold(0f32, |m, g| m.max(g.abs()));
        assert!(scale > 0.0, "{}: no gradient to compare", params.spec(id).name);
        for (i, (a, b)) in grads.of(id).iter().zip(theirs).enumerate() {
            assert!((a - b).abs() < 1e-4 * scale, "{gradient} {}[{i}]: {a} {b}", params.spec(id).name);
        }
    }
    values
}

fn value(values: &[(&'static str, f64)], name: &str) -> f64 {
    values.iter().find(|v| v.0 == name).unwrap().1
}

fn load(name: &str) -> (Llama, Params) {
    weights::load(&folder(name)).unwrap()
}

#[test]
fn sft_on_packed_dialogs_is_the_mean_over_response_tokens() {
    let golden = golden();
    let (llama, params) = load("policy");
    let dialog = |g: &GoldenGroup| Dialog {
        tokens: [&g.prompt[..], &g.responses[0]].concat(),
        learned: [vec![false; g.prompt.len()], vec![true; g.responses[0].len()]].concat(),
        task: None,
    };
    let dialogs: Vec<Dialog> = golden.batch.iter().map(dialog).collect();
    for micro in MICRO_BATCHES {
        let settings = SftSettings { train: one_batch(micro), ..SftSettings::default() };
        let objective = SftObjective::new(&llama, &dialogs, &dialogs, &settings, 1);
        let values = step(&objective, &params, "sft_gradient");
        close(value(&values, "loss"), &golden.sft["loss"], "loss");
        close(value(&values, "learned_tokens"), &golden.sft["tokens"], "tokens");
        close(objective.held_out_loss(&params), &golden.sft["loss"], "held-out loss");
    }
}

#[test]
fn dpo_on_packed_pairs_is_trl_on_padded_ones() {
    let golden = golden();
    let (llama, params) = load("policy");
    let (reference, reference_params) = load("reference");
    // TRL was given the first two responses of each prompt.
    let mut groups = golden.groups();
    groups.iter_mut().for_each(|g| g.responses.truncate(2));
    let of_reference = references(&reference, &reference_params, &groups, 1000);
    for micro in MICRO_BATCHES {
        let settings = DpoSettings { train: one_batch(micro), ..DpoSettings::default() };
        let held_out = (groups.as_slice(), of_reference.clone());
        let objective = DpoObjective::new(&llama, (&groups, of_reference.clone()), held_out, &settings, 1);
        let values = step(&objective, &params, "dpo_gradient");
        let logged = [
            ("loss", "loss"),
            ("margin", "rewards/margins"),
            ("accuracy", "rewards/accuracies"),
            ("logprob_chosen", "logps/chosen"),
            ("logprob_rejected", "logps/rejected"),
        ];
        for (ours, theirs) in logged {
            close(value(&values, ours), &golden.dpo[theirs], ours);
        }
        let outcome = objective.held_out_outcome(&params);
        close(outcome.reward_chosen, &golden.dpo["rewards/chosen"], "reward of the chosen");
        close(outcome.reward_rejected, &golden.dpo["rewards/rejected"], "reward of the rejected");
    }
}

#[test]
fn rewards_of_packed_responses_are_those_of_each_alone() {
    let golden = golden();
    let model = RewardModel::load(&folder("reward")).unwrap();
    let groups = golden.groups();
    let all: Vec<&Group> = groups.iter().collect();
    let forwards = model.rewards(&all, |_, g| (0..g.responses.len()).collect());
    let backwards = model.rewards(&all, |_, g| (0..g.responses.len()).rev().collect());
    for (g, group) in golden.reward["rewards"].as_array().unwrap().iter().enumerate() {
        for (r, alone) in group.as_array().unwrap().iter().enumerate() {
            close(forwards[g][r], alone, "reward");
            close(backwards[g][r], alone, "reward in another order");
        }
    }
    for micro in MICRO_BATCHES {
        let objective = RewardObjective::new(&model.llama, &groups, &groups, &one_batch(micro), 1);
        let values = step(&objective, &model.params, "reward_gradient");
        for name in ["loss", "accuracy", "margin"] {
            close(value(&values, name), &golden.reward[name], name);
        }
    }
}

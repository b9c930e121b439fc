//! `summary.json` of post-training: what the report draws.

use crate::rejection::SamplingSummary;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An interval of a share.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How often the reward model ranks a held-out prompt's best response over its worst.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of prompts ranked right; a tie is wrong.
    pub score: f64,
    /// Prompts ranked right.
    pub right: usize,
    /// Prompts.
    pub n: usize,
    /// 95% interval `score ± 1.96 sqrt(score (1 - score) / n)` (SPEC EVAL-1).
    pub normal: Interval,
    /// Wilson's 95% interval.
    pub wilson: Interval,
}

impl Accuracy {
    /// From the rewards of each prompt's responses, best first.
    pub fn of(rewards: &[Vec<f64>]) -> Self {
        let right = rewards.iter().filter(|r| r.first() > r.last()).count();
        let count = rewards.len().max(1) as f64;
        let score = right as f64 / count;
        let z = 1.96f64;
        let half = z * (score * (1.0 - score) / count).sqrt();
        let shrink = 1.0 + z * z / count;
        let centre = (score + z * z / (2.0 * count)) / shrink;
        let spread = z / shrink * (score * (1.0 - score) / count + z * z / (4.0 * count * count)).sqrt();
        let around = |middle: f64, half: f64| Interval {
            low: (middle - half).max(0.0),
            high: (middle + half).min(1.0),
        };
        Self { score, right, n: rewards.len(), normal: around(score, half), wilson: around(centre, spread) }
    }
}

/// The reward model of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardSummary {
    /// On the held-out pairs.
    pub accuracy: Accuracy,
    /// Prompts with ranked responses that were trained on.
    pub prompts: usize,
    /// Ordered pairs among them.
    pub pairs: usize,
    /// Records whose preference was too weak.
    pub too_weak: usize,
    /// Responses left out because they were too like a better one.
    pub too_similar: usize,
    /// Optimizer steps.
    pub steps: u64,
    /// Measurements on the held-out pairs, by step.
    pub held_out: Vec<Map<String, Value>>,
}

/// Supervised fine-tuning of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftSummary {
    /// Dialogs trained on.
    pub dialogs: usize,
    /// Those of them that rejection sampling gave.
    pub sampled: usize,
    /// Models averaged.
    pub averaged: usize,
    /// Optimizer steps of one run.
    pub steps: u64,
    /// Mean loss over the learned tokens of the held-out dialogs under the pre-trained model.
    pub base_held_out_loss: f64,
    /// The same under the result.
    pub held_out_loss: f64,
    /// Measurements on the held-out dialogs, by step.
    pub held_out: Vec<Map<String, Value>>,
}

/// Direct preference optimisation of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DpoSummary {
    /// Pairs trained on.
    pub pairs: usize,
    /// Round in which they were collected.
    pub collected_in_round: u32,
    /// Optimizer steps of one run.
    pub steps: u64,
    /// Mean margin of the held-out pairs under the result; 0 before.
    pub held_out_margin: f64,
    /// Share of the held-out pairs with a positive margin.
    pub held_out_accuracy: f64,
    /// Mean summed log p of the held-out chosen responses before DPO.
    pub chosen_logprob_before: f64,
    /// After it.
    pub chosen_logprob: f64,
    /// Mean summed log p of the held-out rejected responses before DPO.
    pub rejected_logprob_before: f64,
    /// After it.
    pub rejected_logprob: f64,
    /// Measurements on the held-out pairs, by step.
    pub held_out: Vec<Map<String, Value>>,
}

/// One round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundSummary {
    /// Number of the round, from 1.
    pub round: u32,
    /// The reward model.
    pub reward: RewardSummary,
    /// Rejection sampling.
    pub sampling: SamplingSummary,
    /// Supervised fine-tuning.
    pub sft: SftSummary,
    /// Direct preference optimisation.
    pub dpo: DpoSummary,
}

/// A prompt answered by three models, the likeliest token each time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The user's message.
    pub prompt: String,
    /// The pre-trained model's answer.
    pub base: String,
    /// After SFT.
    pub sft: String,
    /// After DPO.
    pub chat: String,
}

/// What post-training did: the last round in full, then all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The last round's reward model.
    pub reward: RewardSummary,
    /// The last round's rejection sampling.
    pub sampling: SamplingSummary,
    /// The last round's supervised fine-tuning.
    pub sft: SftSummary,
    /// The last round's direct preference optimisation.
    pub dpo: DpoSummary,
    /// Every round.
    pub rounds: Vec<RoundSummary>,
    /// Answers before and after.
    pub samples: Vec<Sample>,
}

#[cfg(test)]
mod tests {
    use super::Accuracy;

    #[test]
    fn accuracy_compares_best_and_worst_and_knows_its_interval() {
        let mut rewards = vec![vec![1.0, 0.5, 0.0]; 8];
        rewards.extend([vec![0.0, 1.0], vec![2.0, 2.0]]);
        let accuracy = Accuracy::of(&rewards);
        assert_eq!((accuracy.right, accuracy.n, accuracy.score), (8, 10, 0.8));
        // 8 of 10 with z = 1.96 by both formulas.
        assert!((accuracy.normal.low - 0.5521).abs() < 1e-4 && accuracy.normal.high == 1.0);
        assert!((accuracy.wilson.low - 0.4902).abs() < 1e-4 && (accuracy.wilson.high - 0.9433).abs() < 1e-4);
    }
}

//! The table `[align]` of a recipe.

use herd_infer::Device;
use herd_run::SettingError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Settings of post-training. The defaults are the paper's where it gives a number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Folder of the instructions and preference pairs (JSON Lines; the format is described beside the quickstart's).
    pub data: PathBuf,
    /// Rounds of reward model, rejection sampling, SFT and DPO. Round `r` uses the preference pairs of rounds up to `r`.
    pub rounds: u32,
    /// Seed of every shuffle and sample of this stage.
    pub seed: u64,
    /// Longest dialog in tokens, all responses to a prompt counted one by one. A longer one in the data is an error.
    pub max_tokens: usize,
    /// The reward model.
    pub reward: RewardSettings,
    /// Rejection sampling.
    pub rejection: RejectionSettings,
    /// Supervised fine-tuning.
    pub sft: SftSettings,
    /// Direct preference optimisation.
    pub dpo: DpoSettings,
    /// Prompts answered by the base, SFT and chat models for the report.
    pub samples: Vec<String>,
}

/// How a sub-stage is optimised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimization {
    /// One run for each peak learning rate; the runs are averaged (SPEC POST-7). Linear warm-up, then half a
    /// cosine to zero.
    pub learning_rates: Vec<f64>,
    /// Passes over the data.
    pub epochs: f64,
    /// Tokens of a step: whole dialogs are packed until the next would exceed it.
    pub batch_tokens: usize,
    /// Tokens that go through the model together; what a step has more is accumulated. Bounds memory, and is part of
    /// what fixes the bits.
    pub micro_batch_tokens: usize,
    /// Share of the steps spent in warm-up.
    pub warmup: f64,
    /// AdamW's weight decay.
    pub weight_decay: f64,
    /// Checkpoints of the last third of a run that are averaged; 1 keeps the last alone.
    pub average_last: usize,
    /// Steps between two checkpoints, from which a killed run continues.
    pub checkpoint_every: u64,
}

impl Default for Optimization {
    fn default() -> Self {
        Self {
            learning_rates: vec![1e-5],
            epochs: 1.0,
            batch_tokens: 65_536,
            micro_batch_tokens: 8192,
            warmup: 0.03,
            weight_decay: 0.0,
            average_last: 1,
            checkpoint_every: 50,
        }
    }
}

/// `[align.reward]`, SPEC POST-3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardSettings {
    /// How it is optimised.
    pub train: Optimization,
    /// Two responses whose tokens are more alike than this (1 - edit distance / longer length) say nothing and are
    /// left out.
    pub max_similarity: f64,
}

impl Default for RewardSettings {
    fn default() -> Self {
        Self { train: Optimization::default(), max_similarity: 0.9 }
    }
}

/// `[align.rejection]`, SPEC POST-4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RejectionSettings {
    /// Samples of each prompt, K.
    pub samples: usize,
    /// Prompts to sample for, drawn from the instructions. More than there are means all.
    pub prompts: usize,
    /// Sampling temperature.
    pub temperature: f32,
    /// Sampling nucleus.
    pub top_p: f32,
    /// Longest response in tokens; one that does not end by itself is never kept.
    pub max_new_tokens: usize,
    /// Share of the prompts, those with the highest best reward, whose best sample joins the SFT data.
    pub keep: f64,
    /// Where the samples are computed.
    #[serde(skip_serializing_if = "Device::is_cpu")]
    pub device: Device,
}

impl Default for RejectionSettings {
    fn default() -> Self {
        Self {
            samples: 10,
            prompts: 10_000,
            temperature: 0.7,
            top_p: 0.95,
            max_new_tokens: 512,
            keep: 0.5,
            device: Device::Cpu,
        }
    }
}

/// `[align.sft]`, SPEC POST-5.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftSettings {
    /// How it is optimised.
    pub train: Optimization,
    /// How often an instruction of a task is seen in one epoch, by the task's name; 1 if not named.
    pub repeat: BTreeMap<String, usize>,
    /// Whether the first round's policy, which learned the instructions without samples, joins the average: two data
    /// mixes (SPEC POST-7).
    pub average_mixes: bool,
}

impl Default for SftSettings {
    fn default() -> Self {
        let train = Optimization { epochs: 2.0, ..Optimization::default() };
        Self { train, repeat: BTreeMap::new(), average_mixes: true }
    }
}

/// `[align.dpo]`, SPEC POST-6.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoSettings {
    /// How it is optimised.
    pub train: Optimization,
    /// Strength of the pull to the reference model.
    pub beta: f64,
    /// Coefficient of the negative log-likelihood of the chosen response.
    pub nll: f64,
}

impl Default for DpoSettings {
    fn default() -> Self {
        Self { train: Optimization::default(), beta: 0.1, nll: 0.2 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        let samples = [
            "Who are you?",
            "Hello!",
            "What is Debian?",
            "How do I install a package?",
            "What does the SUM function do?",
        ];
        Self {
            data: PathBuf::from("alignment"),
            rounds: 1,
            seed: 1,
            max_tokens: 4096,
            reward: RewardSettings::default(),
            rejection: RejectionSettings::default(),
            sft: SftSettings::default(),
            dpo: DpoSettings::default(),
            samples: samples.map(String::from).to_vec(),
        }
    }
}

impl Settings {
    /// Refuses values that cannot work; the key is relative to this table.
    pub fn validate(&self) -> Result<(), SettingError> {
        check(self.rounds >= 1, "rounds", "no round would do nothing; choose 1 or more")?;
        check(self.max_tokens >= 16, "max_tokens", "a dialog needs at least 16 tokens for its headers")?;
        let stages = [("reward", &self.reward.train), ("sft", &self.sft.train), ("dpo", &self.dpo.train)];
        for (table, train) in stages {
            train.validate(self.max_tokens).map_err(|e| e.within("train").within(table))?;
        }
        let similarity = self.reward.max_similarity;
        check(
            similarity > 0.0 && similarity <= 1.0,
            "reward.max_similarity",
            "choose a share above 0 and up to 1",
        )?;
        let r = &self.rejection;
        check(
            r.samples >= 2,
            "rejection.samples",
            "choosing needs at least 2 samples; the paper takes 10 to 30",
        )?;
        check(r.prompts >= 1, "rejection.prompts", "choose 1 or more")?;
        check(
            r.temperature > 0.0,
            "rejection.temperature",
            "at 0 all samples are equal; choose a number above 0",
        )?;
        check(r.top_p > 0.0 && r.top_p <= 1.0, "rejection.top_p", "choose a share above 0 and up to 1")?;
        check(r.max_new_tokens >= 1, "rejection.max_new_tokens", "choose 1 or more")?;
        check((0.0..=1.0).contains(&r.keep), "rejection.keep", "choose a share from 0 to 1")?;
        check(self.dpo.beta > 0.0, "dpo.beta", "choose a number above 0; the paper takes 0.1")?;
        check(self.dpo.nll >= 0.0, "dpo.nll", "choose 0 or more; the paper takes 0.2")?;
        let repeated = self.sft.repeat.values().all(|&times| times >= 1);
        check(
            repeated,
            "sft.repeat",
            "every number must be 1 or more; remove the examples from the data to leave a task out",
        )
    }
}

impl Optimization {
    fn validate(&self, max_tokens: usize) -> Result<(), SettingError> {
        let rates =
            !self.learning_rates.is_empty() && self.learning_rates.iter().all(|&r| r > 0.0 && r.is_finite());
        check(rates, "learning_rates", "give one or more numbers above 0, such as [1e-5]")?;
        check(self.epochs > 0.0 && self.epochs.is_finite(), "epochs", "choose a number above 0")?;
        let fits = self.batch_tokens >= max_tokens;
        check(
            fits,
            "batch_tokens",
            format!("must hold the longest dialog; choose at least max_tokens = {max_tokens}"),
        )?;
        check(
            self.micro_batch_tokens >= 1,
            "micro_batch_tokens",
            "choose 1 or more; a longer dialog goes alone",
        )?;
        check((0.0..1.0).contains(&self.warmup), "warmup", "choose a share from 0 to below 1")?;
        check(self.weight_decay >= 0.0, "weight_decay", "choose 0 or more")?;
        check(self.average_last >= 1, "average_last", "choose 1 (no averaging) or more")?;
        check(self.checkpoint_every >= 1, "checkpoint_every", "choose 1 or more")
    }
}

fn check(holds: bool, key: &str, problem: impl Into<String>) -> Result<(), SettingError> {
    if holds { Ok(()) } else { Err(SettingError::new(key, problem)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_hold_the_papers_numbers() {
        let settings = Settings::default();
        settings.validate().unwrap();
        assert_eq!(
            (settings.dpo.beta, settings.dpo.nll, settings.dpo.train.learning_rates[0]),
            (0.1, 0.2, 1e-5)
        );
        assert_eq!(settings.sft.train.learning_rates, [1e-5]);
    }

    #[test]
    fn an_impossible_value_is_named_with_its_key() {
        let mut settings = Settings::default();
        settings.sft.train.batch_tokens = 100;
        let error = settings.validate().unwrap_err();
        assert_eq!(error.key, "sft.train.batch_tokens");
        assert!(error.problem.contains("4096"), "{error}");
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<Settings>(r#"{"dpo": {"betta": 0.1}}"#).unwrap_err();
        assert!(error.to_string().contains("`beta`"), "{error}");
    }
}

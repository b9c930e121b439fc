//! What changes during training: the learning rate, the batch and sequence length, and the mix of domains.

use herd_run::SettingError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::PI;

/// A learning rate as a function of the step (SPEC TRAIN-1, TRAIN-3). Steps count from 0; step `s` uses `lr(s)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Schedule {
    /// The same rate at every step.
    Constant {
        /// The rate.
        lr: f64,
    },
    /// Linear warm-up from `peak / warmup` to `peak`, then half a cosine down to `last` at the last step.
    WarmupCosine {
        /// Highest rate, reached at step `warmup - 1`.
        peak: f64,
        /// Rate at step `steps - 1` and after.
        last: f64,
        /// Steps of warm-up.
        warmup: u64,
        /// Steps in all.
        steps: u64,
    },
    /// A straight line from `from` at step 0 to 0 at step `steps` (which is one past the last).
    LinearToZero {
        /// Rate at step 0.
        from: f64,
        /// Steps in all.
        steps: u64,
    },
}

impl Schedule {
    /// Linear warm-up over `warmup` steps to `peak`, then a cosine to `last` at step `steps - 1`.
    pub fn warmup_cosine(peak: f64, last: f64, warmup: u64, steps: u64) -> Self {
        Self::WarmupCosine { peak, last, warmup, steps }
    }

    /// A straight line from `from` to 0, which would be reached at step `steps`.
    pub fn linear_to_zero(from: f64, steps: u64) -> Self {
        Self::LinearToZero { from, steps }
    }

    /// The same rate at every step.
    pub fn constant(lr: f64) -> Self {
        Self::Constant { lr }
    }

    /// The learning rate of step `step`.
    pub fn lr(&self, step: u64) -> f64 {
        match *self {
            Self::Constant { lr } => lr,
            Self::WarmupCosine { peak, warmup, .. } if step < warmup => {
                peak * (step + 1) as f64 / warmup as f64
            }
            Self::WarmupCosine { peak, last, warmup, steps } => {
                // The peak belongs to step warmup - 1 (or to step 0 without warm-up), the end to step steps - 1.
                let start = warmup.saturating_sub(1);
                let span = (steps.saturating_sub(1)).saturating_sub(start).max(1);
                let part = ((step - start) as f64 / span as f64).min(1.0);
                last + 0.5 * (peak - last) * (1.0 + (PI * part).cos())
            }
            Self::LinearToZero { from, steps } => {
                from * steps.saturating_sub(step) as f64 / steps.max(1) as f64
            }
        }
    }
}

/// From a number of tokens seen on: how many tokens a step takes and how long its sequences are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchStage {
    /// The stage begins with the first step that starts after so many tokens.
    #[serde(default)]
    pub after_tokens: u64,
    /// Tokens of one optimizer step; a multiple of `sequence`.
    pub batch_tokens: u64,
    /// Tokens of one sequence.
    pub sequence: u64,
}

impl BatchStage {
    /// Sequences of one step.
    pub fn rows(&self) -> usize {
        (self.batch_tokens / self.sequence.max(1)) as usize
    }
}

/// Growth of batch and sequence by tokens seen; the paper: 4M tokens at 4,096, after 252M tokens 8M at 8,192, after
/// 2.87T tokens 16M (SPEC TRAIN-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchGrowth(pub Vec<BatchStage>);

impl BatchGrowth {
    /// One batch size and sequence length for the whole phase.
    pub fn fixed(batch_tokens: u64, sequence: u64) -> Self {
        Self(vec![BatchStage { after_tokens: 0, batch_tokens, sequence }])
    }

    /// The stage in force after `seen` tokens.
    pub fn at(&self, seen: u64) -> BatchStage {
        let reached = self.0.iter().rev().find(|stage| stage.after_tokens <= seen);
        reached.copied().unwrap_or(BatchStage { after_tokens: 0, batch_tokens: 1, sequence: 1 })
    }

    /// Longest sequence of any stage.
    pub fn longest(&self) -> u64 {
        self.0.iter().map(|stage| stage.sequence).max().unwrap_or(0)
    }

    /// Tokens that the first `steps` steps take together.
    pub fn tokens_after(&self, steps: u64) -> u64 {
        let (mut seen, mut left) = (0u64, steps);
        for (i, stage) in self.0.iter().enumerate() {
            let in_stage = match self.0.get(i + 1) {
                Some(next) => {
                    next.after_tokens.saturating_sub(seen).div_ceil(stage.batch_tokens.max(1)).min(left)
                }
                None => left,
            };
            seen += in_stage * stage.batch_tokens;
            left -= in_stage;
        }
        seen
    }

    /// Checks that the stages begin at 0, rise, and hold whole sequences. `key` is their place in the recipe.
    pub fn validate(&self, key: &str) -> Result<(), SettingError> {
        let error = |problem: String| Err(SettingError::new(key, problem));
        if self.0.first().is_none_or(|stage| stage.after_tokens != 0) {
            return error("the first stage must have after_tokens = 0".into());
        }
        for stage in &self.0 {
            let BatchStage { batch_tokens, sequence, .. } = *stage;
            if sequence < 2 {
                return error(format!("sequence is {sequence}; it must be at least 2 tokens"));
            }
            if batch_tokens == 0 || !batch_tokens.is_multiple_of(sequence) {
                return error(format!(
                    "batch_tokens {batch_tokens} is not a multiple of sequence {sequence}; choose {}",
                    (batch_tokens / sequence).max(1) * sequence
                ));
            }
        }
        match self.0.windows(2).find(|pair| pair[1].after_tokens <= pair[0].after_tokens) {
            Some(pair) => error(format!(
                "after_tokens must rise from stage to stage, but {} follows {}",
                pair[1].after_tokens, pair[0].after_tokens
            )),
            None => Ok(()),
        }
    }
}

/// Domains that the data stage tells apart (SPEC DATA-6, 7, 8).
pub const DOMAINS: [&str; 4] = ["general", "mathematics", "code", "multilingual"];

/// From a share of the phase on: the weight of each domain, by tokens. Weights need not sum to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixStage {
    /// Share of the phase's tokens after which the stage begins, 0 to 1.
    #[serde(default)]
    pub from: f64,
    /// Weight per domain; a domain that is not named gets none.
    pub weights: BTreeMap<String, f64>,
}

/// Mix of domains that changes over training (SPEC DATA-8, TRAIN-1: more non-English and mathematics as it goes on).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mix(pub Vec<MixStage>);

impl Mix {
    /// One mix for the whole phase.
    pub fn fixed(weights: &[(&str, f64)]) -> Self {
        let weights = weights.iter().map(|&(name, weight)| (name.to_string(), weight)).collect();
        Self(vec![MixStage { from: 0.0, weights }])
    }

    /// The paper's final mix: 50% general knowledge, 25% mathematics and reasoning, 17% code, 8% multilingual.
    pub fn llama3() -> Self {
        Self::fixed(&[("general", 0.50), ("mathematics", 0.25), ("code", 0.17), ("multilingual", 0.08)])
    }

    /// The weights in force at `progress` (0 to 1) for `domains`, in that order, summing to 1. If none of the
    /// domains that exist has a weight, all count alike.
    pub fn weights(&self, progress: f64, domains: &[String]) -> Vec<f64> {
        let stage = self.0.iter().rev().find(|stage| stage.from <= progress).or(self.0.first());
        let raw: Vec<f64> = domains
            .iter()
            .map(|name| stage.and_then(|stage| stage.weights.get(name)).copied().unwrap_or(0.0))
            .collect();
        let sum: f64 = raw.iter().sum();
        match sum > 0.0 {
            true => raw.iter().map(|weight| weight / sum).collect(),
            false => vec![1.0 / domains.len().max(1) as f64; domains.len()],
        }
    }

    /// Whether any stage gives a domain a weight.
    pub fn uses(&self, domain: &str) -> bool {
        self.0.iter().any(|stage| stage.weights.get(domain).is_some_and(|&weight| weight > 0.0))
    }

    /// Checks that stages begin at 0 and rise, and that weights are of known domains and non-negative with a positive
    /// sum.
    pub fn validate(&self, key: &str) -> Result<(), SettingError> {
        let error = |problem: String| Err(SettingError::new(key, problem));
        if self.0.first().is_none_or(|stage| stage.from != 0.0) {
            return error("the first stage must have from = 0.0".into());
        }
        if let Some(pair) = self.0.windows(2).find(|pair| pair[1].from <= pair[0].from || pair[1].from >= 1.0)
        {
            return error(format!(
                "from must rise from stage to stage and stay below 1, but {} follows {}",
                pair[1].from, pair[0].from
            ));
        }
        for stage in &self.0 {
            if let Some(name) = stage.weights.keys().find(|name| !DOMAINS.contains(&name.as_str())) {
                return error(format!("`{name}` is no domain; choose of {}", DOMAINS.join(", ")));
            }
            if let Some((name, weight)) = stage.weights.iter().find(|(_, w)| !(w.is_finite() && **w >= 0.0)) {
                return error(format!("the weight of `{name}` is {weight}; it must be a number from 0 up"));
            }
            if stage.weights.values().sum::<f64>() <= 0.0 {
                return error("at least one domain needs a weight above 0".into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-12, "{a} {b}");
    }

    #[test]
    fn the_papers_learning_rate() {
        let s = Schedule::warmup_cosine(8e-5, 8e-7, 8_000, 1_200_000);
        close(s.lr(0), 1e-8);
        close(s.lr(3_999), 4e-5);
        close(s.lr(7_999), 8e-5);
        close(s.lr((7_999 + 1_199_999) / 2), (8e-5 + 8e-7) / 2.0);
        close(s.lr(1_199_999), 8e-7);
        close(s.lr(2_000_000), 8e-7);
        let no_warmup = Schedule::warmup_cosine(1.0, 0.0, 0, 11);
        close(no_warmup.lr(0), 1.0);
        close(no_warmup.lr(5), 0.5);
    }

    #[test]
    fn linear_and_constant() {
        let s = Schedule::linear_to_zero(2.0, 4);
        assert_eq!([0, 1, 2, 3, 4, 9].map(|i| s.lr(i)), [2.0, 1.5, 1.0, 0.5, 0.0, 0.0]);
        close(Schedule::constant(3e-4).lr(77), 3e-4);
    }

    #[test]
    fn the_papers_batch_growth() {
        let stage =
            |after_tokens, batch_tokens, sequence| BatchStage { after_tokens, batch_tokens, sequence };
        let m = 1 << 20;
        let growth = BatchGrowth(vec![
            stage(0, 4 * m, 4096),
            stage(252_000_000, 8 * m, 8192),
            stage(2_870_000_000_000, 16 * m, 8192),
        ]);
        growth.validate("batch").unwrap();
        assert_eq!(growth.at(251_999_999).rows(), 1024);
        assert_eq!(growth.at(252_000_000).sequence, 8192);
        assert_eq!(growth.at(2_870_000_000_000).batch_tokens, 16 * m);
        // 61 steps of 4M pass 252M tokens; every later one takes 8M.
        assert_eq!(growth.tokens_after(61), 61 * 4 * m);
        assert_eq!(growth.tokens_after(63), 61 * 4 * m + 2 * 8 * m);
        let mut seen = 0;
        (0..400_000).for_each(|_| seen += growth.at(seen).batch_tokens);
        assert_eq!(growth.tokens_after(400_000), seen);
    }

    #[test]
    fn impossible_growth_and_mixes_are_named() {
        let bad = BatchGrowth::fixed(1000, 300).validate("initial.batch").unwrap_err();
        assert!(bad.key == "initial.batch" && bad.problem.contains("900"), "{bad}");
        let mut mix = Mix::fixed(&[("general", 1.0)]);
        mix.0.push(MixStage { from: 0.0, weights: BTreeMap::new() });
        assert!(mix.validate("mix").is_err());
        assert!(Mix::fixed(&[("general", -1.0)]).validate("mix").is_err());
        let typo = Mix::fixed(&[("genral", 1.0)]).validate("initial.mix").unwrap_err();
        assert!(typo.problem.contains("genral") && typo.problem.contains("multilingual"), "{typo}");
    }

    #[test]
    fn the_mix_changes_with_progress_and_ignores_absent_domains() {
        let mut mix = Mix::fixed(&[("general", 3.0), ("code", 1.0)]);
        mix.0.push(MixStage { from: 0.5, weights: BTreeMap::from([("code".into(), 2.0)]) });
        let domains = ["code".to_string(), "general".to_string()];
        assert_eq!(mix.weights(0.49, &domains), [0.25, 0.75]);
        assert_eq!(mix.weights(0.5, &domains), [1.0, 0.0]);
        assert_eq!(mix.weights(0.0, &domains[..1]), [1.0]);
        assert_eq!(mix.weights(0.0, &["other".to_string()]), [1.0]);
    }
}

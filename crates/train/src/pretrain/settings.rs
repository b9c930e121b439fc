//! The recipe's `[pretrain]` table.

use crate::adamw::AdamWSettings;
use crate::device::{Device, Precision};
use crate::moments::MomentType;
use crate::needle::NeedleKind;
use crate::schedule::{BatchGrowth, Mix};
use herd_run::SettingError;
use serde::{Deserialize, Serialize};

/// Everything about pre-training that a recipe sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Seed of the initial weights, the order of documents and the needles.
    pub seed: u64,
    /// Tokens that go through the model together; what a step has more is accumulated. Bounds memory, and is part of
    /// what fixes the bits.
    pub micro_batch_tokens: u64,
    /// Compute every block again in the backward pass instead of keeping its insides: less memory, about a third more
    /// work, the same bits.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recompute: bool,
    /// Where steps are made.
    #[serde(skip_serializing_if = "is_default")]
    pub device: Device,
    /// What activations are computed in on a card; without meaning on the processor.
    #[serde(skip_serializing_if = "is_default")]
    pub precision: Precision,
    /// AdamW.
    pub optimizer: AdamWSettings,
    /// What to do when a loss or gradient is not a number.
    pub non_finite: NonFinite,
    /// When to write checkpoints, and how many to keep.
    pub checkpoint: CheckpointSettings,
    /// Loss on documents kept back.
    pub held_out: HeldOutSettings,
    /// Most passes over a domain; what the mix would give it beyond goes to the other domains. Absent: no bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_epochs: Option<f64>,
    /// What the needles of all phases say.
    pub needle_kind: NeedleKind,
    /// First phase.
    pub initial: Initial,
    /// Second phase: stages of growing context.
    pub long_context: LongContext,
    /// Last phase.
    pub annealing: Annealing,
    /// Peak FLOP/s of the machine for MFU; 0 measures a matrix product at the start, or takes that of the card's data
    /// sheet; there is no MFU for a card that is not known.
    pub peak_flops: f64,
}

/// What to do with a step whose loss or gradient is NaN or infinite. It is never applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NonFinite {
    /// Stop with an error, or skip the batch.
    pub policy: NonFinitePolicy,
    /// Batches that may be skipped before the run stops after all.
    pub at_most: u32,
}

/// Choices of [`NonFinite::policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonFinitePolicy {
    /// End with an error that names the step and its documents.
    Stop,
    /// Leave the batch out and go on.
    Skip,
}

/// When to write checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps between two.
    pub every_steps: u64,
    /// How many to keep.
    pub keep: usize,
}

/// Evaluation on held-out documents during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeldOutSettings {
    /// Steps between two; 0 only at the ends of phases.
    pub every_steps: u64,
    /// Tokens per domain.
    pub tokens: u64,
}

/// Initial phase (SPEC TRAIN-1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Initial {
    /// Steps.
    pub steps: u64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Learning rate after warm-up.
    pub peak_learning_rate: f64,
    /// Learning rate at the end of the cosine.
    pub final_learning_rate: f64,
    /// Tokens per step and per sequence, by tokens seen.
    pub batch: BatchGrowth,
    /// Weights of the domains, by share of the phase.
    pub mix: Mix,
    /// Share of the sequences that are needle documents.
    pub needle_share: f64,
}

/// Long-context phase (SPEC TRAIN-2). A stage ends when both gates hold, or when its steps are spent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LongContext {
    /// Sequence length of each stage, tokens; empty leaves the phase out.
    pub contexts: Vec<u64>,
    /// Tokens of one step; a multiple of every context.
    pub batch_tokens: u64,
    /// Learning rate, constant.
    pub learning_rate: f64,
    /// Most steps of one stage.
    pub steps_per_stage: u64,
    /// Steps between two looks at the gates.
    pub evaluate_every: u64,
    /// First gate: the short-context held-out loss is at most this share above what it was before the stage.
    pub loss_tolerance: f64,
    /// Second gate: share of needles found at the stage's length.
    pub needle_recall: f64,
    /// What counts as found.
    pub needle_measure: NeedleMeasure,
    /// Depths at which needles are hidden for the gate.
    pub needle_depths: usize,
    /// Cases per depth.
    pub needle_samples: usize,
    /// Share of the sequences that are needle documents.
    pub needle_share: f64,
    /// Weights of the domains.
    pub mix: Mix,
}

/// Choices of [`LongContext::needle_measure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeedleMeasure {
    /// Greedy continuation gives the answer.
    Exact,
    /// The answer is the likeliest of ten.
    Ranked,
}

/// Annealing phase (SPEC TRAIN-3): the learning rate falls linearly to 0 and the checkpoints are averaged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Annealing {
    /// Steps; 0 leaves the phase out.
    pub steps: u64,
    /// Learning rate at the first step.
    pub learning_rate: f64,
    /// Tokens of one step.
    pub batch_tokens: u64,
    /// Tokens of one sequence; 0 takes the longest context so far.
    pub sequence: u64,
    /// Up-sampled mix.
    pub mix: Mix,
    /// Share of the sequences that are needle documents.
    pub needle_share: f64,
    /// Checkpoints, evenly spaced over the last half of the phase, that are averaged into the final model.
    pub average: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 0,
            micro_batch_tokens: 4096,
            recompute: false,
            device: Device::default(),
            precision: Precision::default(),
            optimizer: AdamWSettings::default(),
            non_finite: NonFinite::default(),
            checkpoint: CheckpointSettings::default(),
            held_out: HeldOutSettings::default(),
            max_epochs: None,
            needle_kind: NeedleKind::default(),
            initial: Initial::default(),
            long_context: LongContext::default(),
            annealing: Annealing::default(),
            peak_flops: 0.0,
        }
    }
}

impl Default for NonFinite {
    fn default() -> Self {
        Self { policy: NonFinitePolicy::Stop, at_most: 10 }
    }
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every_steps: 100, keep: 3 }
    }
}

impl Default for HeldOutSettings {
    fn default() -> Self {
        Self { every_steps: 100, tokens: 8192 }
    }
}

impl Default for Initial {
    fn default() -> Self {
        Self {
            steps: 600,
            warmup_steps: 40,
            peak_learning_rate: 3e-3,
            final_learning_rate: 3e-4,
            batch: BatchGrowth::fixed(4096, 256),
            mix: Mix::llama3(),
            needle_share: 0.05,
        }
    }
}

impl Default for LongContext {
    fn default() -> Self {
        Self {
            contexts: vec![512, 1024],
            batch_tokens: 8192,
            learning_rate: 3e-4,
            steps_per_stage: 60,
            evaluate_every: 20,
            loss_tolerance: 0.01,
            needle_recall: 1.0,
            needle_measure: NeedleMeasure::Exact,
            needle_depths: 5,
            needle_samples: 2,
            needle_share: 0.5,
            mix: Mix::llama3(),
        }
    }
}

impl Default for Annealing {
    fn default() -> Self {
        Self {
            steps: 60,
            learning_rate: 3e-4,
            batch_tokens: 8192,
            sequence: 0,
            mix: Mix::fixed(&[("general", 0.4), ("mathematics", 0.3), ("code", 0.2), ("multilingual", 0.1)]),
            needle_share: 0.1,
            average: 5,
        }
    }
}

pub(super) fn wrong<T>(key: &str, problem: impl Into<String>) -> Result<T, SettingError> {
    Err(SettingError::new(key, problem))
}

fn positive(key: &str, value: u64) -> Result<(), SettingError> {
    if value == 0 { wrong(key, "must be at least 1") } else { Ok(()) }
}

fn rate(key: &str, value: f64) -> Result<(), SettingError> {
    match value.is_finite() && value > 0.0 && value < 1.0 {
        true => Ok(()),
        false => {
            wrong(key, format!("{value} is no learning rate; choose a number between 0 and 1, such as 3e-4"))
        }
    }
}

fn share(key: &str, value: f64) -> Result<(), SettingError> {
    match (0.0..=1.0).contains(&value) {
        true => Ok(()),
        false => wrong(key, format!("{value} must lie between 0 and 1")),
    }
}

fn whole_sequences(key: &str, batch: u64, sequence: u64) -> Result<(), SettingError> {
    match batch > 0 && batch.is_multiple_of(sequence.max(1)) {
        true => Ok(()),
        false => wrong(key, format!("{batch} is not a multiple of {sequence}, the tokens of a sequence")),
    }
}

impl Settings {
    /// Checks that the values can work. Keys in errors are relative to `[pretrain]`.
    pub fn validate(&self) -> Result<(), SettingError> {
        self.optimizer.validate().map_err(|e| e.within("optimizer"))?;
        if self.device == Device::Cuda && self.optimizer.moments == MomentType::Bf16 {
            return wrong("optimizer.moments", "a card keeps moments in f32 only; take \"f32\"");
        }
        positive("checkpoint.every_steps", self.checkpoint.every_steps)?;
        positive("checkpoint.keep", self.checkpoint.keep as u64)?;
        positive("held_out.tokens", self.held_out.tokens)?;
        if !(self.peak_flops.is_finite() && self.peak_flops >= 0.0) {
            return wrong("peak_flops", format!("{} must be a number from 0 up", self.peak_flops));
        }
        if self.max_epochs.is_some_and(|most| !(most.is_finite() && most > 0.0)) {
            return wrong("max_epochs", "must be above 0");
        }
        self.initial.validate().map_err(|e| e.within("initial"))?;
        self.long_context.validate().map_err(|e| e.within("long_context"))?;
        self.annealing.validate(self.context_before_annealing()).map_err(|e| e.within("annealing"))?;
        if self.optimizer.in_backward {
            self.validate_in_backward()?;
        }
        let longest = self.longest_sequence();
        match self.micro_batch_tokens >= longest {
            true => Ok(()),
            false => wrong(
                "micro_batch_tokens",
                format!("{} is shorter than the longest sequence, {longest}", self.micro_batch_tokens),
            ),
        }
    }

    /// Longest sequence of any phase: the model's `max_context` must reach it.
    pub fn longest_sequence(&self) -> u64 {
        self.context_before_annealing().max(if self.annealing.steps > 0 {
            self.annealing.sequence
        } else {
            0
        })
    }

    fn context_before_annealing(&self) -> u64 {
        self.long_context.contexts.iter().copied().chain([self.initial.batch.longest()]).max().unwrap_or(0)
    }

    /// Sequence length of the annealing phase.
    pub(super) fn annealing_sequence(&self) -> u64 {
        match self.annealing.sequence {
            0 => self.context_before_annealing(),
            sequence => sequence,
        }
    }
}

impl Initial {
    fn validate(&self) -> Result<(), SettingError> {
        positive("steps", self.steps)?;
        if self.warmup_steps >= self.steps {
            return wrong(
                "warmup_steps",
                format!("{} must be below steps, which is {}", self.warmup_steps, self.steps),
            );
        }
        rate("peak_learning_rate", self.peak_learning_rate)?;
        if !(0.0..=self.peak_learning_rate).contains(&self.final_learning_rate) {
            return wrong(
                "final_learning_rate",
                format!(
                    "{} must lie between 0 and the peak, {}",
                    self.final_learning_rate, self.peak_learning_rate
                ),
            );
        }
        self.batch.validate("batch")?;
        self.mix.validate("mix")?;
        share("needle_share", self.needle_share)
    }
}

impl LongContext {
    fn validate(&self) -> Result<(), SettingError> {
        if self.contexts.is_empty() {
            return Ok(());
        }
        for &context in &self.contexts {
            if context < 64 {
                return wrong("contexts", format!("{context} is too short for a needle; at least 64 tokens"));
            }
            whole_sequences("batch_tokens", self.batch_tokens, context)?;
        }
        if !self.contexts.is_sorted_by(|a, b| a < b) {
            return wrong("contexts", format!("{:?} must grow from stage to stage", self.contexts));
        }
        rate("learning_rate", self.learning_rate)?;
        positive("steps_per_stage", self.steps_per_stage)?;
        positive("evaluate_every", self.evaluate_every)?;
        positive("needle_depths", self.needle_depths as u64)?;
        positive("needle_samples", self.needle_samples as u64)?;
        if !(self.loss_tolerance.is_finite() && self.loss_tolerance >= 0.0) {
            return wrong("loss_tolerance", format!("{} must be a number from 0 up", self.loss_tolerance));
        }
        share("needle_recall", self.needle_recall)?;
        share("needle_share", self.needle_share)?;
        self.mix.validate("mix")
    }
}

impl Annealing {
    fn validate(&self, context: u64) -> Result<(), SettingError> {
        if self.steps == 0 {
            return Ok(());
        }
        rate("learning_rate", self.learning_rate)?;
        let sequence = if self.sequence == 0 { context } else { self.sequence };
        if sequence < 2 {
            return wrong("sequence", format!("{sequence} is too short; at least 2 tokens"));
        }
        whole_sequences("batch_tokens", self.batch_tokens, sequence)?;
        if self.average == 0 || self.average > self.steps {
            return wrong(
                "average",
                format!("{} must lie between 1 and steps, {}", self.average, self.steps),
            );
        }
        share("needle_share", self.needle_share)?;
        self.mix.validate("mix")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Settings)) -> SettingError {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.validate().unwrap_err()
    }

    #[test]
    fn impossible_values_are_named_by_their_key() {
        Settings::default().validate().unwrap();
        assert_eq!(problem(|s| s.initial.warmup_steps = s.initial.steps).key, "initial.warmup_steps");
        assert_eq!(problem(|s| s.optimizer.beta2 = 1.0).key, "optimizer.beta2");
        assert_eq!(problem(|s| s.long_context.batch_tokens = 1000).key, "long_context.batch_tokens");
        assert_eq!(problem(|s| s.long_context.contexts = vec![512, 512]).key, "long_context.contexts");
        assert_eq!(problem(|s| s.annealing.average = 1000).key, "annealing.average");
        assert_eq!(problem(|s| s.micro_batch_tokens = 512).key, "micro_batch_tokens");
        assert_eq!(problem(|s| s.initial.peak_learning_rate = 3.0).key, "initial.peak_learning_rate");
    }
}

//! `summary.json` of the pre-training stage: what the report draws.

use super::Position;
use super::phases::Leg;
use crate::held_out::DomainLoss;
use crate::loader::Loader;
use crate::metrics;
use crate::needle::Recall;
use herd_run::atomic::FileError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;

/// Most points of the training curve that are kept.
const CURVE_POINTS: usize = 1000;

/// How FLOPs are counted, in words for the report.
pub const MFU_CONVENTION: &str = "model FLOPs only: 6 per weight of every multiplying matrix and token, plus causal \
    attention counted once over the packed documents; recomputation is not counted; MFU is their rate over the peak";

/// What pre-training did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Parameters of the model.
    pub parameters: u64,
    /// Steps done.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds spent in training steps, over all starts of the stage.
    pub seconds: f64,
    /// Mean tokens per second in training steps.
    pub tokens_per_second: f64,
    /// Mean model FLOP/s in training steps.
    pub flops_per_second: f64,
    /// Share of the machine's peak, if that is known.
    pub mfu: Option<f64>,
    /// Peak FLOP/s that `mfu` refers to; `None` for a card that is not known.
    pub peak_flops: Option<f64>,
    /// Whether the peak was measured (a matrix product in this process) or set in the recipe.
    pub peak_measured: bool,
    /// How FLOPs are counted.
    pub mfu_convention: String,
    /// The phases in order.
    pub phases: Vec<Phase>,
    /// Loss, learning rate and throughput by step, thinned.
    pub curve: Vec<CurvePoint>,
    /// Held-out losses by step.
    pub held_out: Vec<HeldOutPoint>,
    /// The long-context stages and their gates.
    pub long_context: Vec<StageOutcome>,
    /// How the final weights came about.
    pub averaging: Averaging,
    /// How much was taken from each domain.
    pub domains: Vec<DomainUse>,
    /// Batches left out because their loss or gradient was not a number.
    pub skipped_batches: u32,
    /// What a reader should know before trusting the numbers.
    pub notes: Vec<String>,
}

/// One phase as it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// `initial`, `long context N`, `annealing`.
    pub name: String,
    /// Steps of the run that were done before it.
    pub first_step: u64,
    /// Its steps.
    pub steps: u64,
    /// Its tokens.
    pub tokens: u64,
    /// Its longest sequence.
    pub sequence: u64,
}

/// One point of the training curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Training loss, nats per token; where the curve is thinned, the mean over the steps left out.
    pub loss: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Throughput.
    pub tokens_per_second: f64,
}

/// Held-out loss after some step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOutPoint {
    /// Steps done.
    pub step: u64,
    /// Per domain, then `all`.
    pub losses: Vec<DomainLoss>,
}

/// A long-context stage and its two gates (SPEC TRAIN-2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageOutcome {
    /// Sequence length.
    pub context: u64,
    /// Steps it took.
    pub steps: u64,
    /// Tokens it took.
    pub tokens: u64,
    /// Short-context held-out loss before the stage.
    pub loss_before: f64,
    /// The same at its end.
    pub loss_after: f64,
    /// First gate: the loss is back within the tolerance.
    pub loss_recovered: bool,
    /// Needles found at this length when it ended.
    pub recall: Recall,
    /// Second gate: enough needles found.
    pub needle_found: bool,
    /// Whether both gates hold. If not, the stage ended because its steps were spent.
    pub passed: bool,
}

/// How the final weights came about.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Averaging {
    /// Steps whose checkpoints were averaged; empty if the last weights were taken as they are.
    pub steps: Vec<u64>,
    /// Held-out loss of the last weights.
    pub loss_last: f64,
    /// Held-out loss of the final (averaged) weights.
    pub loss_final: f64,
    /// Held-out losses of the final weights per domain, then `all`.
    pub held_out: Vec<DomainLoss>,
    /// Needles found by the final weights at the longest context.
    pub recall: Recall,
}

/// How much was taken from one domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainUse {
    /// Its name.
    pub name: String,
    /// Tokens trained on.
    pub tokens: u64,
    /// Passes over its training shard.
    pub epochs: f64,
}

/// What the metrics file says about a run.
pub(super) struct Record {
    pub curve: Vec<CurvePoint>,
    pub held_out: Vec<HeldOutPoint>,
    pub seconds: f64,
    pub flops: f64,
    pub tokens: u64,
}

impl Record {
    /// Reads `metrics.jsonl` of a folder.
    pub fn read(folder: &Path) -> Result<Self, FileError> {
        let mut record =
            Self { curve: Vec::new(), held_out: Vec::new(), seconds: 0.0, flops: 0.0, tokens: 0 };
        for line in metrics::read(folder)? {
            let step = line.get("step").and_then(Value::as_u64).unwrap_or(0);
            let number = |key: &str| line.get(key).and_then(Value::as_f64);
            if let Some(seconds) = number("train/seconds") {
                record.seconds += seconds;
                record.flops += number("train/flops_per_second").unwrap_or(0.0) * seconds;
                record.tokens += number("train/batch_tokens").unwrap_or(0.0) as u64;
                record.curve.push(CurvePoint {
                    step,
                    tokens: number("train/tokens").unwrap_or(0.0) as u64,
                    loss: number("train/loss").unwrap_or(0.0),
                    grad_norm: number("train/grad_norm").unwrap_or(0.0),
                    learning_rate: number("train/learning_rate").unwrap_or(0.0),
                    tokens_per_second: number("train/tokens_per_second").unwrap_or(0.0),
                });
            } else if line.contains_key("held_out/loss/all") {
                // A stop between two measurements of one step repeats the first of them.
                record.held_out.pop_if(|last| last.step == step);
                record.held_out.push(HeldOutPoint { step, losses: domain_losses(&line) });
            }
        }
        record.curve = thin(record.curve);
        Ok(record)
    }
}

fn domain_losses(line: &Map<String, Value>) -> Vec<DomainLoss> {
    let value = |kind: &str, domain: &str| {
        line.get(&format!("held_out/{kind}/{domain}")).and_then(Value::as_f64).unwrap_or(0.0)
    };
    line.keys()
        .filter_map(|key| key.strip_prefix("held_out/loss/"))
        .map(|domain| DomainLoss {
            domain: domain.to_string(),
            loss: value("loss", domain),
            bits_per_byte: value("bits_per_byte", domain),
            tokens: value("tokens", domain) as u64,
        })
        .collect()
}

/// Keeps at most [`CURVE_POINTS`]: each stands for a run of steps, with their mean loss and throughput.
fn thin(curve: Vec<CurvePoint>) -> Vec<CurvePoint> {
    let size = curve.len().div_ceil(CURVE_POINTS).max(1);
    let mean =
        |run: &[CurvePoint], of: fn(&CurvePoint) -> f64| run.iter().map(of).sum::<f64>() / run.len() as f64;
    curve
        .chunks(size)
        .map(|run| CurvePoint {
            loss: mean(run, |p| p.loss),
            grad_norm: mean(run, |p| p.grad_norm),
            tokens_per_second: mean(run, |p| p.tokens_per_second),
            ..run[run.len() - 1]
        })
        .collect()
}

/// The domains' share in what was trained on.
pub(super) fn domain_use(loader: &Loader) -> Vec<DomainUse> {
    let cursors = loader.state().cursors.iter();
    let pass = loader.rows_per_pass();
    let named = loader.domains().into_iter().zip(cursors.zip(pass));
    named
        .map(|(name, (cursor, rows))| DomainUse {
            name,
            tokens: cursor.rows,
            epochs: cursor.rows as f64 / rows.max(1) as f64,
        })
        .collect()
}

/// The phases as far as the position says.
pub(super) fn phases(position: &Position, legs: &[Leg]) -> Vec<Phase> {
    let mut first_step = 0;
    position
        .done
        .iter()
        .zip(legs)
        .map(|(done, leg)| {
            let phase = Phase {
                name: leg.name.clone(),
                first_step,
                steps: done.steps,
                tokens: done.tokens,
                sequence: leg.growth.longest(),
            };
            first_step += done.steps;
            phase
        })
        .collect()
}

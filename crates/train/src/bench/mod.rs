//! `herd bench train`: training steps of a fixed [`Workload`], timed one by one.

mod memory;
mod operators;
mod workload;

pub use memory::Plan;
pub use operators::{Line, table, trace};
pub use workload::{LEARNING_RATE, WORKLOADS, Workload, hash, initialize, number};

use crate::adamw::AdamWSettings;
use crate::device::{Device, DeviceError, Precision};
use crate::moments::MomentType;
use crate::trainer::NotFinite;
use herd_run::atomic::{self, FileError};
use herd_run::{Context, Interrupted, memory::peak_resident};
use herd_tensor::cuda::{Card, PassUsage};
use herd_tensor::{isa, peak, pool, profile};
use serde::Serialize;
use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

/// What to measure and how to say it.
#[derive(Debug, Clone)]
pub struct Options {
    /// The workload.
    pub workload: Workload,
    /// Steps; read from the input instead if interactive.
    pub steps: usize,
    /// One JSON object a step instead of text.
    pub json: bool,
    /// One step for each line `step` of the input, until it ends.
    pub interactive: bool,
    /// Other tokens in every step, instead of the same.
    pub fresh: bool,
    /// The optimizer's settings.
    pub optimizer: AdamWSettings,
    /// Where steps are made.
    pub device: Device,
    /// What activations are computed in on a card.
    pub precision: Precision,
    /// Where to write a Chrome trace of the operators.
    pub trace: Option<PathBuf>,
}

/// A step as JSON tells it.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Name of the workload.
    pub workload: &'static str,
    /// From 1.
    pub step: u64,
    /// Wall time of forward, loss, backward, and, where the workload has an optimizer, clipping (if asked for) and update.
    pub seconds: f64,
    /// Mean loss over the tokens before the update, nats.
    pub loss: f64,
    /// Tokens per second.
    pub tokens_per_s: f64,
    /// Operations of the model per second, 10^9 (causal attention counted once, recomputation not).
    pub gflops: f64,
    /// The most memory the process has had so far, 10^6 bytes; absent where the system does not tell.
    pub peak_rss_mb: Option<f64>,
    /// The most memory of the card that was ever in use, 10^6 bytes; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_card_mb: Option<f64>,
    /// Of `seconds`, those until the card was asked for everything; absent without one. Where it is most of them, the card
    /// waits for the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_seconds: Option<f64>,
    /// Lists of work that the card was asked for in this step, and how many of them as graphs; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lists: Option<[u64; 2]>,
}

/// Why the measurement ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// The card cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A card keeps its moments in f32.
    #[error("moments in bf16 are not made on a card; take --moments f32")]
    Moments,
    /// A card updates after the backward pass.
    #[error("a card updates after the backward pass; leave --optimizer-in-backward out")]
    InBackward,
    /// Standard input or output is gone.
    #[error("standard input or output: {0}")]
    Stream(#[from] io::Error),
    /// A line of the input is no command.
    #[error("the input says `{0}`; it may only say `step`, once for each step to make")]
    Command(String),
    /// The trace cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The step's numbers broke: a bug.
    #[error("{workload} step {step}: {problem}; report this as a bug")]
    NotFinite {
        /// Name of the workload.
        workload: &'static str,
        /// From 1.
        step: u64,
        /// What was not a number.
        problem: NotFinite,
    },
}

/// Makes the steps and says how long they took.
pub fn run(
    options: &Options,
    mut input: impl BufRead,
    mut output: impl Write,
    ctx: &Context,
) -> Result<(), Error> {
    let workload = options.workload;
    let card = options.device.open()?;
    if card.is_some() && options.optimizer.moments == MomentType::Bf16 {
        return Err(Error::Moments);
    }
    if card.is_some() && options.optimizer.in_backward {
        return Err(Error::InBackward);
    }
    let mut micro = workload.micro_batch(0);
    let plan = Plan::of(&workload, &micro, &options.optimizer);
    let dtype = options.precision.dtype();
    let peak = (!options.json).then(|| match &card {
        None => peak::measured_flops(),
        // A card that is not known has no share of its peak.
        Some(card) => options.precision.peak_flops(card).unwrap_or(0.0),
    });
    if !options.json {
        writeln!(output, "{}: {}", workload.name, workload.title)?;
    }
    if let (Some(card), Some(peak)) = (&card, peak) {
        let peak = match peak > 0.0 {
            true => format!("peak {:.1} TFLOP/s", peak / 1e12),
            false => "peak not known".to_string(),
        };
        writeln!(output, "{} ({}), {:?}, {peak}", card.name(), card.architecture(), options.precision)?;
    } else if let Some(peak) = peak {
        let threads = rayon::current_num_threads();
        writeln!(output, "{threads} threads, {:?}, measured peak {:.1} GFLOP/s", isa::active(), peak / 1e9)?;
        writeln!(output, "planned peak memory {:.0} MB: {plan}", plan.total() as f64 / 1e6)?;
    }
    let mut trainer = workload.trainer(options.optimizer);
    if let Some(card) = &card {
        options.precision.set_on(card);
        match workload.optimizer {
            true => trainer.to_card(card, dtype),
            false => trainer.weights_to_card(card, dtype),
        }
        .map_err(DeviceError)?;
    }
    let flops = workload.tokens as f64 * trainer.llama.config.flops_per_token(micro.mean_context());
    let mut steps: Vec<Step> = Vec::new();
    let mut spans = Vec::new();
    while options.interactive || steps.len() < options.steps {
        if options.interactive && !told(&mut input)? {
            break;
        }
        ctx.stop.check()?;
        let number = steps.len() as u64 + 1;
        if options.fresh {
            micro = workload.micro_batch(steps.len());
        }
        // The first step asks the system for memory and says nothing about the others.
        // On a card spans say how long the processor asked for work, not how long the card worked.
        let recorded = number > 1 && card.is_none() && (peak.is_some() || options.trace.is_some());
        if recorded {
            profile::record();
        }
        let started = Instant::now();
        let batch = std::slice::from_ref(&micro);
        let lists = card.as_ref().map(lists);
        let begun = match workload.optimizer {
            true => trainer.begin(batch, LEARNING_RATE),
            false => trainer.begin_gradient(batch),
        };
        let host_seconds = started.elapsed().as_secs_f64();
        let loss = trainer.finish(begun).map(|outcome| outcome.loss);
        let seconds = started.elapsed().as_secs_f64();
        if recorded {
            spans.push(profile::take());
        }
        let loss =
            loss.map_err(|problem| Error::NotFinite { workload: workload.name, step: number, problem })?;
        let step = Step {
            workload: workload.name,
            step: number,
            seconds,
            loss,
            tokens_per_s: workload.tokens as f64 / seconds,
            gflops: flops / seconds / 1e9,
            peak_rss_mb: peak_resident().map(|bytes| bytes as f64 / 1e6),
            peak_card_mb: card.as_ref().map(|card| card.usage().peak_live as f64 / 1e6),
            host_seconds: card.as_ref().map(|_| host_seconds),
            lists: card.as_ref().zip(lists).map(|(card, before)| {
                let now = self::lists(card);
                [now[0] - before[0], now[1] - before[1]]
            }),
        };
        match peak {
            None => writeln!(output, "{}", serde_json::to_string(&step).map_err(io::Error::other)?)?,
            Some(peak) => writeln!(output, "{}", sentence(&step, peak))?,
        }
        output.flush()?;
        steps.push(step);
    }
    if let (Some(peak), true) = (peak, steps.len() > 1) {
        summary(&mut output, &steps[1..], peak)?;
        if let Some(card) = &card {
            writeln!(output, "  graphs      {}", graphs(&card.passes()))?;
        }
        if !spans.is_empty() {
            writeln!(output, "\nwhere the time of a step goes (mean of {} steps)", spans.len())?;
            write!(output, "{}", table(&spans))?;
        }
    }
    if let Some(path) = &options.trace {
        atomic::write_json(path, &trace(&spans))?;
    }
    Ok(())
}

/// Lists that a card was asked for so far, and how many of them as graphs.
fn lists(card: &Card) -> [u64; 2] {
    let usage = card.passes();
    [usage.lists, usage.launched]
}

/// How much was asked of a card as graphs, and why not more.
fn graphs(usage: &PassUsage) -> String {
    let PassUsage { lists, launched, captured, on, refused } = usage;
    match (refused, on) {
        (Some(why), _) => format!("none since one was refused: {why}"),
        (None, false) => "none, since HERD_CUDA_GRAPHS is 0".to_string(),
        (None, true) => {
            format!("{launched} of {lists} lists of work launched as graphs, {captured} captured")
        }
    }
}

/// Waits for a command; `false` at the end of the input.
fn told(input: &mut impl BufRead) -> Result<bool, Error> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    match line.trim() {
        "step" => Ok(true),
        other => Err(Error::Command(other.to_string())),
    }
}

fn sentence(step: &Step, peak: f64) -> String {
    format!(
        "step {}: {:.3} s, loss {:.4}, {:.0} tokens/s, {:.1} GFLOP/s{}, {:.0} MB",
        step.step,
        step.seconds,
        step.loss,
        step.tokens_per_s,
        step.gflops,
        share(step.gflops, peak, 0, "peak"),
        step.peak_card_mb.or(step.peak_rss_mb).unwrap_or(0.0),
    )
}

/// ` (40% of peak)`, or nothing where the peak is not known.
fn share(gflops: f64, peak: f64, digits: usize, of: &str) -> String {
    match peak > 0.0 {
        true => format!(" ({:.digits$}% of {of})", 100.0 * gflops * 1e9 / peak),
        false => String::new(),
    }
}

/// Median of the steps.
fn summary(output: &mut impl Write, steps: &[Step], peak: f64) -> io::Result<()> {
    let mut sorted: Vec<&Step> = steps.iter().collect();
    sorted.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let median = sorted[sorted.len() / 2];
    writeln!(output, "\nmedian of {} steps after the first", steps.len())?;
    writeln!(output, "  step        {:.3} s", median.seconds)?;
    writeln!(output, "  speed       {:.0} tokens/s", median.tokens_per_s)?;
    let of = if median.peak_card_mb.is_some() { "the card's peak" } else { "the measured peak" };
    writeln!(output, "  operations  {:.1} GFLOP/s{}", median.gflops, share(median.gflops, peak, 1, of))?;
    if let Some(memory) = steps.last().and_then(|step| step.peak_rss_mb) {
        writeln!(output, "  memory      {memory:.0} MB at the peak")?;
    }
    if let Some(seconds) = median.host_seconds {
        writeln!(output, "  asked for   in {:.2} ms of it by the processor", 1e3 * seconds)?;
    }
    if let Some(memory) = median.peak_card_mb {
        writeln!(output, "  on the card {memory:.0} MB at the peak")?;
        let (used, held) = (pool::usage().peak_live, pool::usage().live + pool::usage().idle);
        let mb = |bytes: usize| bytes as f64 / 1e6;
        writeln!(output, "  buffers     {:.0} MB in use at once, {:.0} MB held", mb(used), mb(held))?;
    }
    Ok(())
}

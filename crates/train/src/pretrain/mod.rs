//! The pre-training stage: initial phase, long-context stages with their gates, annealing with averaging
//! (SPEC TRAIN-1, 2, 3). Killed at any moment it continues from its newest checkpoint with the same bits.

mod error;
mod gates;
mod in_backward;
mod mix;
mod phases;
mod settings;
mod steps;
mod summary;

pub use error::Error;
pub(crate) use mix::capped;
pub use mix::{MixRow, plan};
pub use settings::{
    Annealing, CheckpointSettings, HeldOutSettings, Initial, LongContext, NeedleMeasure, NonFinite,
    NonFinitePolicy, Settings,
};
pub use summary::{
    Averaging, CurvePoint, DomainUse, HeldOutPoint, MFU_CONVENTION, Phase, StageOutcome, Summary,
};

use crate::average::average;
use crate::device::DeviceError;
use crate::held_out::{DomainLoss, HeldOut};
use crate::loader::{self, Loader};
use crate::needle::Sentences;
use crate::schedule::DOMAINS;
use crate::trainer::Trainer;
use crate::{checkpoint, metrics};
use gates::Haystack;
use herd_model::{Llama, LlamaConfig, weights};
use herd_run::atomic::{self, FileError};
use herd_run::{Context, SettingError, Task};
use herd_tensor::cuda::Card;
use herd_tokenizer::Tokenizer;
use phases::{Kind, Leg};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Where a run stands; with parameters and moments it determines everything that follows.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Position {
    /// Steps of the run.
    step: u64,
    /// Tokens of the run.
    tokens: u64,
    /// Current leg, and what was done in it.
    leg: usize,
    in_leg: Done,
    /// Finished legs.
    done: Vec<Done>,
    /// Finished long-context stages.
    stages: Vec<StageOutcome>,
    /// Whether the measurements due after the last step were made; a stop may come between.
    looked: bool,
    /// Held-out loss at the end of the last leg.
    loss: f64,
    skipped: u32,
    loader: loader::State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Done {
    steps: u64,
    tokens: u64,
}

/// Runs (or continues) pre-training.
///
/// `shards` is the folder of token shards with its `index.json`, `tokenizer` the folder or file of the tokenizer that
/// made them. `out` receives checkpoints, snapshots, metrics and `summary.json`; `models_base` the final model with
/// its tokenizer. Called again after any interruption with the same arguments it continues from `out`; the weights are
/// the same bits as without the interruption, for any number of threads.
pub fn run(
    settings: &Settings,
    model: LlamaConfig,
    shards: &Path,
    tokenizer: &Path,
    out: &Path,
    models_base: &Path,
    ctx: &Context,
) -> Result<Summary, Error> {
    settings.validate()?;
    if settings.longest_sequence() > model.max_position_embeddings as u64 {
        return Err(SettingError::new(
            "long_context.contexts",
            format!(
                "sequences of {} tokens are longer than the model's max_context, {}; raise model.max_context",
                settings.longest_sequence(),
                model.max_position_embeddings
            ),
        )
        .into());
    }
    // Before anything is read or written: without a card there is nothing to do.
    let card = settings.device.open()?;
    let tokenizer = Tokenizer::load(tokenizer)?;
    let mut run = Run::open(settings, model, shards, &tokenizer, out, card, ctx)?;
    while run.position.leg < run.legs.len() {
        run.leg()?;
    }
    run.finish(&tokenizer, models_base)
}

/// A run in progress.
struct Run<'a> {
    settings: &'a Settings,
    out: &'a Path,
    ctx: &'a Context,
    legs: Vec<Leg>,
    trainer: Trainer,
    card: Option<Card>,
    loader: Loader,
    held_out: HeldOut,
    haystack: Haystack,
    metrics: metrics::Writer,
    position: Position,
    task: Task,
    /// `None` for a card that is not known.
    peak_flops: Option<f64>,
    /// When the last step was known to be done.
    settled: Option<Instant>,
    notes: Vec<String>,
}

impl<'a> Run<'a> {
    fn open(
        settings: &'a Settings,
        model: LlamaConfig,
        shards: &Path,
        tokenizer: &Tokenizer,
        out: &'a Path,
        card: Option<Card>,
        ctx: &'a Context,
    ) -> Result<Self, Error> {
        let sentences = Arc::new(Sentences::new(tokenizer, settings.needle_kind));
        let mut loader = Loader::open(shards, settings.seed)?
            .with_needles(Arc::clone(&sentences))
            .with_max_epochs(settings.max_epochs);
        let short = settings.initial.batch.longest() as usize;
        let micro = settings.micro_batch_tokens as usize;
        let held_out = HeldOut::open(shards, short, settings.held_out.tokens, micro)?;
        let haystack = Haystack::open(shards, sentences, settings)?;
        let llama = Llama::new(model);
        let params = llama.params();
        let mut trainer = Trainer::new(llama, params, settings.optimizer);
        trainer.recompute = settings.recompute;
        if let Some(card) = &card {
            settings.precision.set_on(card);
            trainer.to_card(card, settings.precision.dtype()).map_err(DeviceError)?;
        }
        let mut notes = Vec::new();
        let saved = checkpoint::latest(
            &out.join("checkpoints"),
            &mut trainer.params,
            &mut trainer.optimizer,
            |warning| {
                ctx.progress.line(format!("warning: {warning}"));
                notes.push(warning);
            },
        )?;
        let fresh = Position {
            step: 0,
            tokens: 0,
            leg: 0,
            in_leg: Done::default(),
            done: Vec::new(),
            stages: Vec::new(),
            looked: true,
            loss: 0.0,
            skipped: 0,
            loader: loader.state().clone(),
        };
        let position = saved
            .and_then(|state| serde_json::from_value::<Position>(state.extra).ok())
            .filter(|position| loader.restore(position.loader.clone()));
        let position = match position {
            Some(position) => {
                ctx.progress.line(format!("pretrain: continuing after step {}", position.step));
                position
            }
            None => {
                trainer.params.initialize(settings.seed);
                trainer.reset();
                fresh
            }
        };
        let NonFinite { policy, at_most } = settings.non_finite;
        trainer.optimizer.left_out_at_most = match policy {
            NonFinitePolicy::Stop => 0,
            NonFinitePolicy::Skip => at_most.saturating_sub(position.skipped),
        };
        if held_out.is_empty() {
            notes.push(
                "there are no held-out documents: held-out losses and the first gate mean nothing".into(),
            );
        }
        let legs = phases::legs(settings);
        notes.extend(mix_notes(&legs, &loader.domains()));
        let peak_flops = match (settings.peak_flops, &card) {
            (0.0, None) => Some(gates::measured_peak_flops()),
            (0.0, Some(card)) => settings.precision.peak_flops(card),
            (set, _) => Some(set),
        };
        if let (None, Some(card)) = (peak_flops, &card) {
            let note = format!(
                "no MFU: the peak of the card `{}` is not known; set pretrain.peak_flops to the operations a second of \
                 its data sheet, for dense matrices",
                card.name()
            );
            ctx.progress.line(&note);
            notes.push(note);
        }
        let total: u64 = legs.iter().map(Leg::tokens).sum();
        let task = ctx.progress.task("pretrain", Some(total), "tokens");
        let metrics = metrics::Writer::open(out, position.step)?;
        Ok(Self {
            settings,
            out,
            ctx,
            legs,
            trainer,
            card,
            loader,
            held_out,
            haystack,
            metrics,
            position,
            task,
            peak_flops,
            settled: None,
            notes,
        })
    }

    /// Takes the snapshots and measurements that are due after a step. `true` if the leg ends with it. Changes nothing
    /// but files before it succeeds.
    fn look(&mut self, leg: &Leg) -> Result<bool, Error> {
        let steps = self.position.in_leg.steps;
        let due = self.due(leg, steps, self.position.step);
        if due.snapshot {
            weights::save(&self.snapshot(self.position.step), &self.trainer.llama, &self.trainer.params)?;
        }
        let mut loss = self.position.loss;
        if due.held_out {
            loss = self.evaluate()?;
        }
        let mut ended = due.last;
        if let (Kind::LongContext(context), true) = (leg.kind, due.gate) {
            let outcome = self.gates(context, loss)?;
            ended |= outcome.passed;
            if ended {
                self.ctx.progress.line(gates::sentence(&outcome));
                self.position.stages.push(outcome);
            }
        }
        if ended {
            let position = &mut self.position;
            position.loss = loss;
            position.done.push(std::mem::take(&mut position.in_leg));
            position.leg += 1;
            self.ctx
                .progress
                .line(format!("pretrain: {} ended after {} steps, held-out loss {loss:.3}", leg.name, steps));
        }
        Ok(ended)
    }

    /// Held-out losses into the metrics. Returns that of all tokens, rounded so that it is the same number after a
    /// trip through JSON.
    fn evaluate(&mut self) -> Result<f64, Error> {
        let losses = self.held_out.evaluate(&self.trainer.llama, &self.trainer.params, self.ctx)?;
        let named: Vec<(String, f64)> = losses
            .iter()
            .flat_map(|l| {
                let name = &l.domain;
                [
                    (format!("held_out/loss/{name}"), l.loss),
                    (format!("held_out/bits_per_byte/{name}"), l.bits_per_byte),
                    (format!("held_out/tokens/{name}"), l.tokens as f64),
                ]
            })
            .collect();
        let values: Vec<(&str, f64)> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        self.metrics.write(self.position.step, &values)?;
        Ok(overall(&losses))
    }

    fn snapshot(&self, step: u64) -> PathBuf {
        self.out.join("snapshots").join(format!("step-{step:010}"))
    }

    fn save(&mut self) -> Result<(), Error> {
        self.metrics.sync()?;
        let state = serde_json::to_value(&self.position)
            .map_err(|e| FileError::at("write", self.out.join("checkpoints"))(std::io::Error::other(e)))?;
        let Trainer { params, optimizer, .. } = &self.trainer;
        let keep = self.settings.checkpoint.keep;
        checkpoint::save(&self.out.join("checkpoints"), keep, self.position.step, params, optimizer, state)?;
        Ok(())
    }

    /// Averages the snapshots, writes the model and the summary.
    fn finish(mut self, tokenizer: &Tokenizer, models_base: &Path) -> Result<Summary, Error> {
        let mut averaging = Averaging { loss_last: self.position.loss, ..Averaging::default() };
        if let Some(leg) = self.legs.last().filter(|leg| leg.kind == Kind::Annealing) {
            let before = self.position.step - leg.steps;
            averaging.steps = leg.snapshots(self.settings).iter().map(|step| before + step).collect();
            let paths: Vec<PathBuf> = averaging.steps.iter().map(|&step| self.snapshot(step)).collect();
            let (llama, params) = average(&paths)?;
            (self.trainer.llama, self.trainer.params) = (Arc::new(llama), params);
            if let Some(card) = &self.card {
                self.trainer.params.to_card(card, self.settings.precision.dtype()).map_err(DeviceError)?;
            }
        }
        averaging.held_out = self.held_out.evaluate(&self.trainer.llama, &self.trainer.params, self.ctx)?;
        averaging.loss_final = overall(&averaging.held_out);
        let longest = self.settings.longest_sequence();
        averaging.recall =
            self.haystack.recall(&self.trainer.llama, &self.trainer.params, longest, self.ctx)?;
        atomic::create_folder(models_base, |scratch| {
            weights::save(scratch, &self.trainer.llama, &self.trainer.params)?;
            tokenizer.save(scratch)?;
            Ok::<_, Error>(())
        })?;
        let record = summary::Record::read(self.out)?;
        let rate = |amount: f64| amount / record.seconds.max(f64::MIN_POSITIVE);
        for stage in self.position.stages.iter().filter(|stage| !stage.passed) {
            self.notes.push(gates::sentence(stage));
        }
        let summary = Summary {
            parameters: self.trainer.params.count() as u64,
            steps: self.position.step,
            tokens: self.position.tokens,
            seconds: record.seconds,
            tokens_per_second: rate(record.tokens as f64),
            flops_per_second: rate(record.flops),
            mfu: self.peak_flops.map(|peak| rate(record.flops) / peak),
            peak_flops: self.peak_flops,
            peak_measured: self.settings.peak_flops == 0.0 && self.card.is_none(),
            mfu_convention: MFU_CONVENTION.to_string(),
            phases: summary::phases(&self.position, &self.legs),
            curve: record.curve,
            held_out: record.held_out,
            long_context: self.position.stages.clone(),
            averaging,
            domains: summary::domain_use(&self.loader),
            skipped_batches: self.position.skipped,
            notes: self.notes,
        };
        atomic::write_json(&self.out.join("summary.json"), &summary)?;
        Ok(summary)
    }
}

/// Where the mix and the data do not meet.
fn mix_notes(legs: &[Leg], present: &[String]) -> Vec<String> {
    let used = |domain: &str| legs.iter().any(|leg| leg.mix.uses(domain));
    let absent = DOMAINS.iter().filter(|domain| used(domain) && !present.iter().any(|name| name == *domain));
    let absent = absent.map(|domain| {
        format!("there are no {domain} documents to train on; their weight goes to the other domains")
    });
    let unused = present.iter().filter(|domain| !used(domain));
    absent
        .chain(unused.map(|domain| format!("no mix gives {domain} a weight; its documents are unused")))
        .collect()
}

/// Loss over all domains, to six decimals.
fn overall(losses: &[DomainLoss]) -> f64 {
    losses.last().map_or(0.0, |all| (all.loss * 1e6).round() / 1e6)
}

//! The phases of a run as a list of legs, and the thread that prepares their batches.

use super::Settings;
use crate::loader::{Loader, Request, State};
use crate::packing::MicroBatch;
use crate::schedule::{BatchGrowth, BatchStage, Mix, Schedule};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// What kind of phase a leg is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Initial,
    /// One stage, at this context.
    LongContext(u64),
    Annealing,
}

/// A stretch of training with one schedule.
#[derive(Debug, Clone)]
pub(super) struct Leg {
    pub name: String,
    pub kind: Kind,
    /// Steps at most; gates may end a long-context stage earlier.
    pub steps: u64,
    pub schedule: Schedule,
    pub growth: BatchGrowth,
    pub needle_share: f64,
    pub mix: Mix,
}

impl Leg {
    /// Tokens if all steps are done.
    pub fn tokens(&self) -> u64 {
        self.growth.tokens_after(self.steps)
    }

    /// What the step that begins after `seen` tokens of this leg asks of the loader.
    fn request(&self, seen: u64, domains: &[String], micro_batch_tokens: u64) -> (BatchStage, Request) {
        let stage = self.growth.at(seen);
        let progress = seen as f64 / self.tokens().max(1) as f64;
        let request = Request {
            sequences: stage.rows(),
            sequence: stage.sequence as usize,
            sequences_per_micro_batch: (micro_batch_tokens / stage.sequence).max(1) as usize,
            weights: self.mix.weights(progress, domains),
            needle_share: self.needle_share,
        };
        (stage, request)
    }

    /// Steps of this leg (counted from 1) after which a snapshot for the average is taken, evenly spaced over the
    /// last half.
    pub fn snapshots(&self, settings: &Settings) -> Vec<u64> {
        if self.kind != Kind::Annealing {
            return Vec::new();
        }
        let count = settings.annealing.average;
        let spacing = (self.steps / 2 / count.max(1)).max(1);
        (0..count).rev().map(|i| self.steps - i * spacing).collect()
    }
}

/// The legs that the settings describe, in order.
pub(super) fn legs(settings: &Settings) -> Vec<Leg> {
    let initial = &settings.initial;
    let mut legs = vec![Leg {
        name: "initial".into(),
        kind: Kind::Initial,
        steps: initial.steps,
        schedule: Schedule::warmup_cosine(
            initial.peak_learning_rate,
            initial.final_learning_rate,
            initial.warmup_steps,
            initial.steps,
        ),
        growth: initial.batch.clone(),
        mix: initial.mix.clone(),
        needle_share: initial.needle_share,
    }];
    let long = &settings.long_context;
    legs.extend(long.contexts.iter().map(|&context| Leg {
        name: format!("long context {context}"),
        kind: Kind::LongContext(context),
        steps: long.steps_per_stage,
        schedule: Schedule::constant(long.learning_rate),
        growth: BatchGrowth::fixed(long.batch_tokens, context),
        mix: long.mix.clone(),
        needle_share: long.needle_share,
    }));
    let annealing = &settings.annealing;
    if annealing.steps > 0 {
        legs.push(Leg {
            name: "annealing".into(),
            kind: Kind::Annealing,
            steps: annealing.steps,
            schedule: Schedule::linear_to_zero(annealing.learning_rate, annealing.steps),
            growth: BatchGrowth::fixed(annealing.batch_tokens, settings.annealing_sequence()),
            mix: annealing.mix.clone(),
            needle_share: annealing.needle_share,
        });
    }
    legs
}

/// The batches of one step, and where the loader stands after them.
pub(super) struct Prepared {
    pub micro_batches: Vec<MicroBatch>,
    pub stage: BatchStage,
    pub loader: State,
}

/// A thread that stays two steps ahead. Which batches it makes is fixed by the leg and the loader's state alone.
pub(super) struct Feed {
    receiver: Option<Receiver<Prepared>>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts preparing the steps of `leg` from `step` on, `seen` tokens into it.
    pub fn start(mut loader: Loader, leg: Leg, step: u64, mut seen: u64, micro_batch_tokens: u64) -> Self {
        let (sender, receiver) = sync_channel(2);
        let domains = loader.domains();
        let thread = std::thread::spawn(move || {
            for _ in step..leg.steps {
                let (stage, request) = leg.request(seen, &domains, micro_batch_tokens);
                let micro_batches = loader.next(&request);
                seen += stage.batch_tokens;
                // The receiver is gone once the leg ends early.
                if sender.send(Prepared { micro_batches, stage, loader: loader.state().clone() }).is_err() {
                    return;
                }
            }
        });
        Self { receiver: Some(receiver), thread: Some(thread) }
    }

    /// The next step's batches; `None` after the leg's last step, or if the thread died.
    pub fn next(&self) -> Option<Prepared> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

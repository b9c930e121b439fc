//! The steps of a leg. On a card the next step is begun before it is asked what the last one did, unless something is due
//! after that: its loss comes back one step late. A step that is not finite is left out by the card, and where the run
//! stops for it so is the one that was begun already, so weights and checkpoints are those of steps made one by one.

use super::phases::{Feed, Kind, Leg, Prepared};
use super::{Done, Error, NonFinite, NonFinitePolicy, Run};
use crate::packing::MicroBatch;
use crate::trainer::{BegunStep, NotFinite, StepOutcome};
use herd_run::atomic::{self, FileError};
use serde_json::json;
use std::time::Instant;

/// A step that was begun.
struct UnderWay {
    prepared: Prepared,
    lr: f64,
    started: Instant,
    begun: BegunStep,
}

/// What is to be done after a step; the next begins when it is done.
pub(super) struct Due {
    pub last: bool,
    pub gate: bool,
    pub snapshot: bool,
    pub held_out: bool,
    pub checkpoint: bool,
}

impl Due {
    fn any(&self) -> bool {
        self.last || self.gate || self.snapshot || self.held_out || self.checkpoint
    }
}

impl Run<'_> {
    /// Trains the current leg to its end and moves on to the next.
    pub(super) fn leg(&mut self) -> Result<(), Error> {
        let leg = self.legs[self.position.leg].clone();
        // Gates may have ended earlier legs before their last step.
        let before: u64 = self.legs[..self.position.leg].iter().map(Leg::tokens).sum();
        self.task.resume_from(before + self.position.in_leg.tokens);
        if !self.position.looked && self.after_step(&leg)? {
            return Ok(());
        }
        let Done { steps, tokens } = self.position.in_leg;
        let feed =
            Feed::start(self.loader.clone(), leg.clone(), steps, tokens, self.settings.micro_batch_tokens);
        let mut before: Option<UnderWay> = None;
        loop {
            let started = Instant::now();
            let prepared = feed.next().ok_or(Error::Feed)?;
            let ahead = u64::from(before.is_some());
            let [in_leg, step] =
                [self.position.in_leg.steps, self.position.step].map(|done| done + ahead + 1);
            let lr = leg.schedule.lr(in_leg - 1);
            let begun = self.trainer.begin(&prepared.micro_batches, lr);
            // What the last step did is asked only now, so that a card is never without work.
            if let Some(before) = before.take() {
                self.settle(&leg, before)?;
                self.position.looked = true;
            }
            let now = UnderWay { prepared, lr, started, begun };
            if self.card.is_some() && !self.due(&leg, in_leg, step).any() && !self.ctx.stop.requested() {
                before = Some(now);
                continue;
            }
            self.settle(&leg, now)?;
            if self.after_step(&leg)? {
                return Ok(());
            }
        }
    }

    /// Waits for a step that was begun, counts and records it.
    fn settle(&mut self, leg: &Leg, step: UnderWay) -> Result<(), Error> {
        let UnderWay { prepared, lr, started, begun } = step;
        let outcome = self.trainer.finish(begun);
        if let Err(problem) = &outcome {
            self.not_finite(problem, &prepared.micro_batches)?;
        }
        self.advance(&prepared);
        // A step that was begun before the last one was done had the card to itself from then on.
        let started = self.settled.map_or(started, |before| started.max(before));
        let settled = Instant::now();
        self.settled = Some(settled);
        if let Ok(outcome) = outcome {
            self.record(leg, &prepared, outcome, lr, (settled - started).as_secs_f64())?;
        }
        self.task.add(prepared.stage.batch_tokens);
        Ok(())
    }

    /// What is due after a step, counted from 1 in the leg and in the run.
    pub(super) fn due(&self, leg: &Leg, in_leg: u64, step: u64) -> Due {
        let settings = self.settings;
        let last = in_leg == leg.steps;
        let gate = matches!(leg.kind, Kind::LongContext(_))
            && (last || in_leg.is_multiple_of(settings.long_context.evaluate_every));
        let every = settings.held_out.every_steps;
        Due {
            last,
            gate,
            snapshot: leg.snapshots(settings).contains(&in_leg),
            held_out: last || gate || every > 0 && step.is_multiple_of(every),
            checkpoint: step.is_multiple_of(settings.checkpoint.every_steps),
        }
    }

    /// Measures and saves what is due after a step. `true` if the leg ends with it.
    fn after_step(&mut self, leg: &Leg) -> Result<bool, Error> {
        let ended = match self.look(leg) {
            // The step is kept; its measurements are made when the run continues.
            Err(stop @ Error::Interrupted(_)) => {
                self.save()?;
                return Err(stop);
            }
            looked => looked?,
        };
        self.position.looked = true;
        let due = self.due(leg, self.position.in_leg.steps, self.position.step);
        if ended || due.checkpoint || self.ctx.stop.requested() {
            self.save()?;
        }
        self.ctx.stop.check()?;
        Ok(ended)
    }

    /// Counts a step as done.
    fn advance(&mut self, prepared: &Prepared) {
        let tokens = prepared.stage.batch_tokens;
        let position = &mut self.position;
        position.step += 1;
        position.tokens += tokens;
        position.in_leg.steps += 1;
        position.in_leg.tokens += tokens;
        position.looked = false;
        position.loader = prepared.loader.clone();
        // Cannot fail: the state comes from a clone of this loader.
        self.loader.restore(prepared.loader.clone());
    }

    fn record(
        &mut self,
        leg: &Leg,
        prepared: &Prepared,
        outcome: StepOutcome,
        lr: f64,
        seconds: f64,
    ) -> Result<(), FileError> {
        let tokens = prepared.stage.batch_tokens as f64;
        let config = &self.trainer.llama.config;
        let flops: f64 = prepared
            .micro_batches
            .iter()
            .map(|micro| micro.targets.len() as f64 * config.flops_per_token(micro.mean_context()))
            .sum();
        self.task.message(format!("{}  loss {:.3}  lr {lr:.1e}", leg.name, outcome.loss));
        let mut values = vec![
            ("train/loss", outcome.loss),
            ("train/grad_norm", outcome.grad_norm),
            ("train/learning_rate", lr),
            ("train/tokens", self.position.tokens as f64),
            ("train/batch_tokens", tokens),
            ("train/sequence", prepared.stage.sequence as f64),
            ("train/seconds", seconds),
            ("train/tokens_per_second", tokens / seconds),
            ("train/flops_per_second", flops / seconds),
        ];
        values.extend(self.peak_flops.map(|peak| ("train/mfu", flops / seconds / peak)));
        self.metrics.write(self.position.step, &values)
    }

    /// Writes the report of a batch whose loss or gradient is not a number; an error if the run must stop for it.
    fn not_finite(&mut self, problem: &NotFinite, batch: &[MicroBatch]) -> Result<(), Error> {
        let step = self.position.step + 1;
        let skipped = self.position.skipped + 1;
        let domains = self.loader.domains();
        let documents: Vec<_> = batch
            .iter()
            .enumerate()
            .filter(|(i, _)| problem.micro_batch.is_none_or(|bad| bad == *i))
            .flat_map(|(i, micro)| micro.pieces.iter().map(move |piece| (i, piece)))
            .map(|(i, piece)| {
                let domain = piece.domain.map_or("needle", |domain| &domains[domain]);
                json!({"micro_batch": i, "domain": domain, "document": piece.document, "offset": piece.offset,
                       "tokens": piece.rows})
            })
            .collect();
        let report = self.out.join(format!("not_finite-step-{step}.json"));
        let content = json!({"step": step, "problem": problem.to_string(), "documents": documents});
        atomic::write_json(&report, &content)?;
        if problem.applied {
            // Nothing is saved: the parameters hold what is not a number.
            return Err(Error::Applied { step, problem: problem.clone(), report });
        }
        let NonFinite { policy, at_most } = self.settings.non_finite;
        if policy == NonFinitePolicy::Stop || skipped > at_most {
            self.save()?;
            return Err(Error::NonFinite { step, problem: problem.clone(), skipped, report });
        }
        self.position.skipped = skipped;
        self.ctx.progress.line(format!(
            "warning: step {step}: {problem}; the batch is left out ({skipped} of at most {at_most}), its documents are in {}",
            report.display()
        ));
        Ok(())
    }
}

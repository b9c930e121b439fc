//! The two gates of a long-context stage, and what they are measured on.

use super::{Error, NeedleMeasure, Run, Settings, StageOutcome};
use crate::loader::{self, filler};
use crate::needle::{self, Recall, Sentences};
use herd_model::Llama;
use herd_run::{Context, Interrupted};
use herd_tensor::{Params, kernels};
use herd_tokenizer::shard::{ShardIndex, TokenShard};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Held-out text in which needles are hidden.
pub(super) struct Haystack {
    shards: Vec<TokenShard>,
    sentences: Arc<Sentences>,
    depths: usize,
    samples: usize,
    seed: u64,
}

impl Haystack {
    /// Opens the held-out shards; the training shards if nothing was kept back.
    pub fn open(
        folder: &Path,
        sentences: Arc<Sentences>,
        settings: &Settings,
    ) -> Result<Self, loader::Error> {
        let index = ShardIndex::load(folder)?;
        let held_out =
            index.domains.iter().any(|domain| domain.held_out.tokens > 2 * domain.held_out.documents);
        let files =
            index.domains.iter().map(|domain| if held_out { &domain.held_out } else { &domain.train });
        let shards = files
            .filter(|file| file.tokens > 0)
            .map(|file| TokenShard::open(folder.join(&file.file)))
            .collect::<Result<_, _>>()?;
        let long = &settings.long_context;
        let (depths, samples) = (long.needle_depths, long.needle_samples);
        Ok(Self { shards, sentences, depths, samples, seed: settings.seed })
    }

    /// Recall at one length: the same cases whenever it is asked.
    pub fn recall(
        &self,
        llama: &Llama,
        params: &Params,
        length: u64,
        ctx: &Context,
    ) -> Result<Recall, Interrupted> {
        let shards: Vec<&TokenShard> = self.shards.iter().collect();
        let length = length as usize;
        let cases = self
            .sentences
            .cases(length, self.depths, self.samples, self.seed, |random| filler(&shards, length, random));
        Ok(Recall::of(&needle::recall(llama, params, &cases, ctx)?))
    }
}

impl Run<'_> {
    /// Measures both gates of the stage at `context`; `loss` is the held-out loss now.
    pub(super) fn gates(&mut self, context: u64, loss: f64) -> Result<StageOutcome, Error> {
        let settings = &self.settings.long_context;
        let recall = self.haystack.recall(&self.trainer.llama, &self.trainer.params, context, self.ctx)?;
        self.metrics.write(
            self.position.step,
            &[
                ("needle/context", context as f64),
                ("needle/exact", recall.exact),
                ("needle/ranked", recall.ranked),
            ],
        )?;
        let found = match settings.needle_measure {
            NeedleMeasure::Exact => recall.exact,
            NeedleMeasure::Ranked => recall.ranked,
        };
        let loss_recovered = loss <= self.position.loss * (1.0 + settings.loss_tolerance);
        let needle_found = found >= settings.needle_recall;
        Ok(StageOutcome {
            context,
            steps: self.position.in_leg.steps,
            tokens: self.position.in_leg.tokens,
            loss_before: self.position.loss,
            loss_after: loss,
            loss_recovered,
            recall,
            needle_found,
            passed: loss_recovered && needle_found,
        })
    }
}

/// A stage's end in words.
pub(super) fn sentence(stage: &StageOutcome) -> String {
    let gate = |held: bool| if held { "holds" } else { "does not hold" };
    format!(
        "long context {}: short-context loss {:.3}, before {:.3} ({}); needle exact {:.0}%, ranked {:.0}% ({}); {}",
        stage.context,
        stage.loss_after,
        stage.loss_before,
        gate(stage.loss_recovered),
        100.0 * stage.recall.exact,
        100.0 * stage.recall.ranked,
        gate(stage.needle_found),
        match stage.passed {
            true => format!("both gates hold after {} steps", stage.steps),
            false => format!("ended because its {} steps were spent", stage.steps),
        }
    )
}

/// Peak FLOP/s of this process: the best of a few f32 matrix products of 1024 x 1024 x 1024 on all threads.
pub(super) fn measured_peak_flops() -> f64 {
    let n = 1024;
    let (x, w, mut out) = (vec![0.5; n * n], vec![0.25; n * n], vec![0.0; n * n]);
    let product = 2.0 * (n * n * n) as f64;
    (0..4)
        .map(|_| {
            let started = Instant::now();
            kernels::matmul_nt(&x, &w, &mut out, n, n, n);
            product / started.elapsed().as_secs_f64()
        })
        .fold(1.0, f64::max)
}

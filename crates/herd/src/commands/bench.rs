//! `herd bench`: from command-line options to a measurement.

use crate::cli::{BenchInferArgs, BenchTrainArgs};
use crate::folder::model_folder;
use herd_run::Context;
use herd_train::AdamWSettings;
use herd_train::bench::{self, Options};
use std::io::{stdin, stdout};

/// Steps of a fixed workload.
pub fn train(args: BenchTrainArgs, ctx: &Context) -> anyhow::Result<()> {
    let BenchTrainArgs { mut workload, steps, json, interactive, recompute, fresh, trace, .. } = args;
    let BenchTrainArgs { moments, no_clip, optimizer_in_backward: in_backward, device, precision, .. } = args;
    workload.recompute |= recompute;
    let mut optimizer = AdamWSettings { moments, in_backward, ..AdamWSettings::default() };
    if no_clip || in_backward {
        optimizer.clip = 0.0;
    }
    let options = Options { workload, steps, json, interactive, optimizer, device, precision, fresh, trace };
    Ok(bench::run(&options, stdin().lock(), stdout().lock(), ctx)?)
}

/// Opening a model, reading prompts and writing answers.
pub fn infer(args: BenchInferArgs) -> anyhow::Result<()> {
    let BenchInferArgs { model, prompt_tokens, new_tokens, requests, computing, rounds, json } = args;
    let settings = computing.settings();
    let options = herd_infer::bench::Options { prompt_tokens, new_tokens, requests, rounds, settings };
    herd_infer::bench::run(&model_folder(&model)?, &options, |round| {
        if json {
            println!("{}", serde_json::json!(round));
            return;
        }
        println!(
            "open {:.3} s, first token {:.3} s, prompts {:.0} tokens/s, answers {:.1} tokens/s, memory {:.0} MB",
            round.load_s,
            round.first_token_s,
            round.prefill_tokens_per_s,
            round.decode_tokens_per_s,
            round.peak_rss_mb
        );
        if round.peak_card_mb > 0.0 {
            println!("  on the card {:.0} MB", round.peak_card_mb);
        }
    })?;
    Ok(())
}

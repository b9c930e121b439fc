//! `herd bench`: from command-line options to a measurement.

use crate::cli::{BenchCardArgs, BenchInferArgs, BenchTrainArgs};
use crate::folder::model_folder;
use herd_run::Context;
use herd_train::bench::{self, Options};
use herd_train::{ComputeType, Place};
use std::io::{stdin, stdout};

/// Steps of a fixed workload.
pub fn train(args: BenchTrainArgs, ctx: &Context) -> anyhow::Result<()> {
    let BenchTrainArgs { mut workload, steps, json, interactive, moments, recompute, fresh, trace, .. } =
        args;
    workload.recompute |= recompute;
    let place = Place { device: args.device, dtype: args.dtype };
    anyhow::ensure!(!args.device.is_cpu() || !args.no_update, "--no-update is for a card: add --device cuda");
    anyhow::ensure!(
        !args.device.is_cpu() || args.dtype != Some(ComputeType::Bf16),
        "--dtype bf16 is for a card: the CPU computes in f32; add --device cuda"
    );
    let no_update = args.no_update;
    let options = Options { workload, steps, json, interactive, place, no_update, moments, fresh, trace };
    Ok(bench::run(&options, stdin().lock(), stdout().lock(), ctx)?)
}

/// A card beside the CPU.
pub fn card(args: BenchCardArgs) -> anyhow::Result<()> {
    let report = bench::compare(args.device, args.steps)?;
    if args.json {
        println!("{}", serde_json::json!(report));
    } else {
        println!("{}\n", report.card);
        for o in &report.operators {
            let sign = if o.agrees { "ok  " } else { "FAIL" };
            println!(
                "{sign} {:4} {:36} values {:.1e}, gradients {:.1e}",
                o.dtype, o.name, o.value, o.gradient
            );
        }
        for c in &report.curves {
            let sign = if c.agrees { "ok  " } else { "FAIL" };
            let (steps, from) = (c.cpu.len(), c.cpu.first().unwrap_or(&f64::NAN));
            let to = c.card.last().unwrap_or(&f64::NAN);
            let apart = c.difference;
            println!(
                "{sign} {:4} {steps} training steps, loss {from:.3} to {to:.3}, {apart:.1e} apart",
                c.dtype
            );
        }
    }
    anyhow::ensure!(report.agrees(), "{}: card and CPU differ", report.card);
    Ok(())
}

/// Opening a model, reading prompts and writing answers.
pub fn infer(args: BenchInferArgs) -> anyhow::Result<()> {
    let BenchInferArgs { model, prompt_tokens, new_tokens, requests, rounds, json } = args;
    let options = herd_infer::bench::Options { prompt_tokens, new_tokens, requests, rounds };
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
    })?;
    Ok(())
}

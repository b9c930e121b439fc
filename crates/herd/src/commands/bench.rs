//! `herd bench`: from command-line options to a measurement.

use crate::cli::BenchTrainArgs;
use herd_run::Context;
use herd_train::bench::{self, Options};
use std::io::{stdin, stdout};

/// Steps of a fixed workload.
pub fn train(args: BenchTrainArgs, ctx: &Context) -> anyhow::Result<()> {
    let BenchTrainArgs { workload, steps, json, interactive, fresh, trace } = args;
    let options = Options { workload, steps, json, interactive, fresh, trace };
    Ok(bench::run(&options, stdin().lock(), stdout().lock(), ctx)?)
}

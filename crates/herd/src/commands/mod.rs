//! One file for each subcommand that is more than a single call.

mod bench;
mod check;
pub mod checkpoint;
pub mod classify;
mod data;
mod doctor;
pub mod generate;
pub mod label;
mod line_editor;
pub mod look;
pub mod measure;
pub mod mix;
mod model;
mod pipeline;
mod talk;
pub mod tasks;
mod tokenizer;
mod view;

use crate::cli::{BenchCommand, Command, DataArgs, TokenizerArgs};
use crate::folder::RunFolder;
use anyhow::Context as _;
use herd_run::Context;

/// Does what the command line asks for.
pub fn run(command: Command, ctx: &Context) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => pipeline::run(&args, None, ctx),
        Command::Check(args) => check::check(&args),
        Command::Data(DataArgs { command: Some(command), .. }) => data::run(command, ctx),
        Command::Data(DataArgs { stage, .. }) => {
            let args = stage.context("name a recipe, or one of the subcommands (herd data --help)")?;
            pipeline::run(&args, Some("data"), ctx)
        }
        Command::Tokenizer(TokenizerArgs { command: Some(command), .. }) => tokenizer::run(command, ctx),
        Command::Tokenizer(TokenizerArgs { stage, .. }) => {
            let args = stage.context("a recipe or a subcommand is missing; see herd tokenizer --help")?;
            pipeline::run(&args, Some("tokenizer"), ctx)
        }
        Command::Shards(args) => pipeline::run(&args, Some("shards"), ctx),
        Command::Pretrain(args) => pipeline::run(&args, Some("pretrain"), ctx),
        Command::Align(args) => pipeline::run(&args, Some("align"), ctx),
        Command::Eval(args) => pipeline::run(&args, Some("eval"), ctx),
        Command::Report { run } => {
            let folder = RunFolder::at(run);
            herd_report::write(folder.root(), &folder.report())?;
            println!("{}", folder.report().display());
            Ok(())
        }
        Command::Doctor => {
            doctor::run();
            Ok(())
        }
        Command::Inspect(args) => checkpoint::inspect(&args),
        Command::Convert(args) => checkpoint::convert(&args, ctx),
        Command::Generate(args) => generate::run(&args, ctx),
        Command::Perplexity(args) => measure::perplexity(&args, ctx),
        Command::Logits(args) => measure::logits(&args),
        Command::Chat(args) => talk::chat(&args, ctx),
        Command::Serve(args) => talk::serve(&args, ctx),
        Command::Bench(BenchCommand::Train(args)) => bench::train(args, ctx),
        Command::Bench(BenchCommand::Infer(args)) => bench::infer(args),
        Command::Bench(BenchCommand::Card(args)) => bench::card(args),
    }
}

/// A number of bytes, with a unit of a thousand, a million or a thousand million.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit.trim().to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("expected a whole number with B, KB, MB or GB, such as 500MB".into()),
    };
    let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|&n| n > 0);
    bytes.ok_or_else(|| "expected a whole number above 0, such as 500MB".into())
}

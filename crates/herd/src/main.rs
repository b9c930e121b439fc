//! The `herd` program. No logic of its own: it reads the command line and the recipe, and calls the crates.

mod cli;
mod commands;
mod folder;
mod recipe;
mod stages;

use clap::Parser;
use herd_run::{Context, Interrupted, Progress, Stop};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let ctx = Context { progress: Progress::new(cli.output.verbosity()), stop: Stop::default() };
    // A measurement is worth something only as a whole.
    let keeps_nothing = match &cli.command {
        cli::Command::Bench(_) => true,
        cli::Command::Tokenizer(args) => matches!(args.command, Some(cli::TokenizerCommand::Bench { .. })),
        _ => false,
    };
    match start(cli, &ctx) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error)
            if error.chain().any(|e| e.is::<Interrupted>() || e.to_string() == Interrupted.to_string()) =>
        {
            match keeps_nothing {
                true => eprintln!(
                    "herd: stopped on request; a benchmark keeps nothing, the same command starts anew"
                ),
                false => eprintln!("herd: {Interrupted}"),
            }
            ExitCode::from(130)
        }
        // Who reads our output has read enough, as `head` does.
        Err(error) if error.chain().any(is_broken_pipe) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("herd: {}", in_full(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line; a cause whose words stand there already is not said twice.
fn in_full(error: &anyhow::Error) -> String {
    error.chain().map(|cause| cause.to_string()).fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        _ if said.contains(&cause) => said,
        _ => format!("{said}: {cause}"),
    })
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}

fn start(cli: cli::Cli, ctx: &Context) -> anyhow::Result<()> {
    let notice = match cli.command {
        // There it stops an answer.
        cli::Command::Chat(_) => "",
        _ => "\nstopping at the next safe point (press Ctrl-C again to end at once) ...",
    };
    ctx.stop.on_ctrl_c(notice)?;
    if let Some(threads) = cli.output.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    commands::run(cli.command, ctx)
}

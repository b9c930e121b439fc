//! The subcommands of `herd data`; `extract`, pages given as files, stands here.

use super::{classify, label, look, mix, tasks};
use crate::cli::DataCommand;
use anyhow::bail;
use herd_data::page_file::{PageFile, extract_file};
use herd_run::Context;
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// One page, as it is printed.
#[derive(Serialize)]
struct Extracted {
    file: String,
    text: String,
    title: String,
    date: Option<String>,
    author: Option<String>,
    language: Option<String>,
    canonical: Option<String>,
    page_type: &'static str,
    milliseconds: f64,
}

/// Does what the command line asks for.
pub fn run(command: DataCommand, ctx: &Context) -> anyhow::Result<()> {
    match command {
        DataCommand::Extract { files, url } => extract(&files, url.as_deref().unwrap_or(""), ctx),
        DataCommand::Plan(args) => tasks::plan(&args, ctx),
        DataCommand::Next(args) => tasks::next(&args, ctx),
        DataCommand::Task(args) => tasks::task(&args, ctx),
        DataCommand::TrainClassifier(args) => classify::train_classifier(&args, ctx),
        DataCommand::Label(args) => label::label(&args, ctx),
        DataCommand::Mix(args) => mix::mix(&args),
        DataCommand::Inspect(args) => look::inspect(&args),
        DataCommand::Sample(args) => look::sample(&args),
        DataCommand::Stats(args) => look::stats(&args),
    }
}

/// Prints the main text of files. A file that is no page is told, and the others are done.
fn extract(files: &[PathBuf], url: &str, ctx: &Context) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut failed = 0;
    for file in files {
        ctx.stop.check()?;
        match extract_file(file, url) {
            Ok(PageFile { page, time, missing }) => {
                if let Some(missing) = missing {
                    eprintln!("herd: {}: {missing}", file.display());
                }
                let metadata = page.metadata;
                let line = Extracted {
                    file: file.display().to_string(),
                    text: page.text,
                    title: metadata.title,
                    date: metadata.date,
                    author: metadata.author,
                    language: metadata.language,
                    canonical: metadata.canonical,
                    page_type: page.page_type.name(),
                    milliseconds: time.as_secs_f64() * 1e3,
                };
                serde_json::to_writer(&mut out, &line)?;
                out.write_all(b"\n")?;
            }
            Err(error) => {
                failed += 1;
                eprintln!("herd: {error}");
            }
        }
    }
    out.flush()?;
    if failed > 0 {
        bail!("{failed} of {} files gave no page", files.len());
    }
    Ok(())
}

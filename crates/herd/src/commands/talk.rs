//! `herd chat` and `herd serve`: from command-line options to a conversation.

use super::line_editor::LineEditor;
use super::model::open;
use crate::cli::{ChatArgs, ServeArgs};
use crate::folder::model_folder;
use herd_infer::{ChatOptions, Sampling, Settings};
use herd_run::Context;
use std::io::{IsTerminal, stdin, stdout};

/// Talks to a model in the terminal, or answers the lines of a pipe.
pub fn chat(args: &ChatArgs, ctx: &Context) -> anyhow::Result<()> {
    let generator = open(&args.model, args.computing)?;
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        max_tokens: args.max_tokens,
        seed: args.seed,
        ..Sampling::default()
    };
    let interactive = stdin().is_terminal() && stdout().is_terminal();
    let options = ChatOptions { system: args.system.clone(), sampling, interactive };
    if interactive {
        return Ok(herd_infer::chat(&generator, &options, LineEditor::new()?, stdout(), ctx)?);
    }
    Ok(herd_infer::chat(&generator, &options, stdin().lock(), stdout().lock(), ctx)?)
}

/// Serves a model until Ctrl-C.
pub fn serve(args: &ServeArgs, ctx: &Context) -> anyhow::Result<()> {
    // A run's models are all called `base` or `chat`; the name of the run says more.
    let given = args.model.canonicalize().ok();
    let given =
        given.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    let options = herd_serve::Options {
        host: args.host,
        port: args.port,
        name: args.name.clone().or(given),
        keys: args.keys.clone(),
        cors: args.cors.clone(),
        answer_seconds: args.time_limit,
        generation: Settings {
            cache_tokens: args.cache_tokens.unwrap_or(0),
            max_sequences: args.at_once,
            max_waiting: args.queue,
            ..args.computing.settings()
        },
        ..herd_serve::Options::default()
    };
    Ok(herd_serve::serve(&model_folder(&args.model)?, &options, ctx)?)
}

//! `herd generate`: one answer, as text or with all its numbers.

use super::model::{Computing, open, text_of};
use herd_infer::Sampling;
use herd_run::Context;
use herd_tokenizer::chat::{Message, Role, encode_dialog};
use serde_json::json;
use std::path::PathBuf;

/// Options of `herd generate`.
#[derive(clap::Args)]
pub struct Args {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    model: PathBuf,
    /// The text to go on from.
    #[arg(
        long,
        value_name = "TEXT",
        required_unless_present = "prompt_file",
        conflicts_with = "prompt_file"
    )]
    prompt: Option<String>,
    /// A file with the text to go on from; - reads standard input.
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// The prompt is a message of a user: put it into the model's chat template.
    #[arg(long)]
    chat: bool,
    /// Most tokens of the answer.
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_tokens: usize,
    /// How freely words are chosen; 0 always takes the likeliest.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    temperature: f32,
    /// Choose among the likeliest words that together have this probability.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// Seed of the choices.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// End before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on over the model's own end tokens.
    #[arg(long)]
    ignore_end: bool,
    /// Where and in how many bits to compute.
    #[command(flatten)]
    computing: Computing,
    /// One JSON object with text, token ids and log-probabilities.
    #[arg(long)]
    json: bool,
}

/// Generates and prints.
pub fn run(args: &Args, ctx: &Context) -> anyhow::Result<()> {
    let generator = open(&args.model, args.computing)?;
    let tokenizer = generator.tokenizer();
    let prompt = match (&args.prompt, &args.prompt_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => text_of(path)?,
        (None, None) => String::new(),
    };
    let tokens = if args.chat {
        encode_dialog(tokenizer, &[Message::new(Role::User, prompt)], true)?.tokens
    } else {
        let mut tokens = Vec::from_iter(tokenizer.begin());
        tokenizer.encode_into(&prompt, &mut tokens);
        if tokens.is_empty() {
            tokens.extend(tokenizer.bos());
        }
        tokens
    };
    let sampling = Sampling {
        temperature: args.temperature,
        top_p: args.top_p,
        seed: args.seed,
        max_tokens: args.max_tokens,
        stop: args.stop.clone(),
        ignore_end: args.ignore_end,
        logprobs: args.json.then_some(0),
        ..Sampling::default()
    };
    let answers = generator.generate_with(std::slice::from_ref(&tokens), 1, &sampling, &ctx.stop, |_| {})?;
    let Some(answer) = answers.into_iter().flatten().next() else { return Ok(()) };
    if !args.json {
        println!("{}", answer.text);
        return Ok(());
    }
    let logprobs: Vec<f32> = answer.logprobs.iter().map(|entry| entry.logprob).collect();
    let object = json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "logprobs": logprobs,
        "prompt_tokens": tokens,
        "finish_reason": answer.finish_reason,
    });
    println!("{object}");
    Ok(())
}

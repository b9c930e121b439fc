//! `herd perplexity` and `herd logits`: numbers to compare a model by.

use super::model::{Computing, activation_type, device, open, text_of, weight_type};
use crate::folder::model_folder;
use anyhow::Context as _;
use herd_convert::logits::{read_tokens, write_logits};
use herd_infer::{ActivationType, Device, Generator, Settings, WeightType};
use herd_run::Context;
use serde_json::json;
use std::path::PathBuf;

/// Options of `herd perplexity`.
#[derive(clap::Args)]
pub struct PerplexityArgs {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    model: PathBuf,
    /// The text (UTF-8); - reads standard input.
    file: PathBuf,
    /// Tokens of a chunk; the second half of each is scored, as llama.cpp does.
    #[arg(long, default_value_t = 512, value_name = "N")]
    context: usize,
    /// Where and in how many bits to compute.
    #[command(flatten)]
    computing: Computing,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// Options of `herd logits`.
#[derive(clap::Args)]
pub struct LogitsArgs {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    model: PathBuf,
    /// Token ids: a JSON list, or numbers with white space between.
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// Where to write `logits` [tokens, vocabulary].
    #[arg(long, value_name = "FILE.safetensors")]
    out: PathBuf,
    /// What weights in bf16 are multiplied with; auto is bf16, as for the other commands. f32 if not given, with fp8 auto.
    #[arg(long, value_parser = activation_type, value_name = "f32|auto")]
    activations: Option<ActivationType>,
    /// What a card keeps the weights of feed-forward layers as, as for the other commands.
    #[arg(long, default_value = "auto", value_parser = weight_type, value_name = "auto|fp8")]
    weights: WeightType,
    /// Where to compute: the processor, or the first NVIDIA card.
    #[arg(long, default_value = "cpu", value_parser = device, value_name = "cpu|cuda")]
    device: Device,
}

/// Scores a text.
pub fn perplexity(args: &PerplexityArgs, ctx: &Context) -> anyhow::Result<()> {
    let text = text_of(&args.file)?;
    let generator = open(&args.model, args.computing)?;
    let tokenizer = generator.tokenizer();
    let mut tokens = Vec::from_iter(tokenizer.begin());
    tokenizer.encode_into(&text, &mut tokens);
    let found = herd_infer::perplexity(&generator, &tokens, args.context, ctx)
        .with_context(|| args.file.display().to_string())?;
    if args.json {
        println!("{}", json!(found));
        return Ok(());
    }
    println!("perplexity {:.4} +/- {:.4}", found.perplexity, found.standard_error);
    println!(
        "over {} tokens: the second half of each of {} chunks of {} (all but the first token of each: {:.4})",
        found.scored, found.chunks, found.chunk, found.perplexity_all
    );
    Ok(())
}

/// Writes logits.
pub fn logits(args: &LogitsArgs) -> anyhow::Result<()> {
    let tokens = read_tokens(&args.tokens)?;
    let LogitsArgs { activations, weights, device, .. } = *args;
    let activations = activations.unwrap_or(match weights {
        WeightType::Auto => ActivationType::F32,
        WeightType::Fp8 => ActivationType::Auto,
    });
    // No answers: a cache for the tokens alone.
    let settings = Settings { activations, weights, device, max_sequences: 1, ..Settings::default() };
    let generator = Generator::open(&model_folder(&args.model)?, settings)?;
    write_logits(&generator, &tokens, &args.out)?;
    println!("{}: logits [{}, {}]", args.out.display(), tokens.len(), generator.config().vocab_size);
    Ok(())
}

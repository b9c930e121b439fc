//! The command line: what `herd --help` says.

use crate::commands::model::{Computing, device};
use crate::commands::{checkpoint, classify, generate, label, look, measure, mix, tasks};
use clap::{Args, Parser, Subcommand};
use herd_run::Verbosity;
use herd_train::bench::{WORKLOADS, Workload};
use herd_train::moments::MomentType;
use herd_train::{Device, Precision};
use std::path::PathBuf;

/// Herd: the complete Llama 3 system as one program.
///
/// From a raw web crawl to a model that chats: `herd run recipes/quickstart.toml` cleans the crawl, trains a
/// tokenizer, pre-trains, evaluates and aligns a small Llama, and writes a report. Every stage is also a subcommand
/// of its own; each continues where it was stopped, and none repeats what is done.
#[derive(Parser)]
#[command(name = "herd", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How much to say.
    #[command(flatten)]
    pub output: Output,
}

/// Options of every subcommand.
#[derive(Args, Clone)]
pub struct Output {
    /// Say only results and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Say more about every stage.
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Threads to use [default: all cores]. Results do not depend on it.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

impl Output {
    /// The verbosity asked for.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}

/// A recipe and the folder to run it in.
#[derive(Args, Clone)]
pub struct RunArgs {
    /// The recipe (TOML), such as recipes/quickstart.toml.
    pub recipe: PathBuf,
    /// The run folder [default: runs/NAME, after the recipe's name].
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Memory that the stages `data` and `tokenizer` may use, such as 1GB; what does not fit goes to disk [default: a
    /// quarter of the machine's].
    #[arg(long, value_name = "SIZE", value_parser = super::commands::bytes)]
    pub memory: Option<u64>,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Do everything a recipe says, in order; continue if it was stopped, do nothing if it is done.
    Run(RunArgs),
    /// Check a recipe and print what it would do, without doing it.
    Check(RunArgs),
    /// Stage 1: clean, de-duplicate and label the crawl.
    Data(DataArgs),
    /// Stage 2: train the tokenizer on the clean documents; or use one: encode, decode, train on files, measure.
    Tokenizer(TokenizerArgs),
    /// Stage 3: write token shards by domain.
    Shards(RunArgs),
    /// Stage 4: pre-train, extend the context, anneal and average: models/base.
    Pretrain(RunArgs),
    /// Stage 5: one round of reward model, rejection sampling, SFT and DPO: models/chat.
    Align(RunArgs),
    /// Stage 6: evaluate the base and the chat model, with intervals.
    Eval(RunArgs),
    /// Write report.html from what a run folder holds.
    Report {
        /// The run folder.
        run: PathBuf,
    },
    /// Tell what this machine has to compute with: processor, NVIDIA driver, libraries, cards; and what is missing.
    Doctor,
    /// Tell what is in a checkpoint: tensors, types, sizes, memory.
    Inspect(checkpoint::InspectArgs),
    /// Convert a checkpoint between safetensors and GGUF, with quantisation.
    Convert(checkpoint::ConvertArgs),
    /// Go on from a text.
    Generate(generate::Args),
    /// Measure how well a model predicts a text.
    Perplexity(measure::PerplexityArgs),
    /// Write the logits of a sequence of tokens.
    Logits(measure::LogitsArgs),
    /// Talk to a model in the terminal.
    Chat(ChatArgs),
    /// Serve a model: OpenAI-compatible API and a chat page.
    Serve(ServeArgs),
    /// Measure this machine and this program.
    #[command(subcommand)]
    Bench(BenchCommand),
}

/// `herd data`: the stage of a recipe, or one of its own subcommands.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct DataArgs {
    /// What to do with pages and documents.
    #[command(subcommand)]
    pub command: Option<DataCommand>,
    /// The stage to run.
    #[command(flatten)]
    pub stage: Option<RunArgs>,
}

/// What can be done with pages and documents.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Print the main text of HTML files and what they say about themselves: one JSON object a page.
    Extract {
        /// HTML files, gzipped or not, in any character encoding.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// The address of the page, which tells its kind and its day; the page's own if absent.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Print how the stage `data` of a recipe is cut into tasks: the plan is made if the run folder has none.
    Plan(RunArgs),
    /// Print the step of the stage `data` to be done now and its tasks that are not done.
    Next(tasks::NextArgs),
    /// Do one task of the stage `data`, on any machine that sees the run folder; nothing, if it is done.
    Task(tasks::TaskArgs),
    /// Let a chat model label documents by criteria of yours, through any OpenAI-compatible endpoint; continues if stopped.
    Label(label::LabelArgs),
    /// Train a classifier of texts, such as "worth reading or not", and tell its precision, recall and AUC on texts kept back.
    TrainClassifier(classify::TrainArgs),
    /// Look at a curated crawl: the funnel, rejects by rule with the text that triggered it, near-duplicates side by side,
    /// documents.
    Inspect(look::InspectArgs),
    /// Print rows drawn by chance, of those that fulfil conditions: one JSON object a row.
    Sample(look::SampleArgs),
    /// Tell what a recipe's mix contains: tokens and passes by phase and domain, documents and tokens by domain and language.
    Mix(mix::MixArgs),
    /// Tell counts, quantiles and histograms of any column by any other.
    Stats(look::StatsArgs),
}

/// `herd tokenizer`: the stage of a recipe, or one of its own subcommands.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TokenizerArgs {
    /// What to do with a tokenizer.
    #[command(subcommand)]
    pub command: Option<TokenizerCommand>,
    /// The stage to run.
    #[command(flatten)]
    pub stage: Option<RunArgs>,
}

/// What can be done with a tokenizer. TOKENIZER is `tokenizer.json`, the folder that holds it, or a tiktoken rank file.
#[derive(Subcommand)]
pub enum TokenizerCommand {
    /// Print the token ids of a text, with spaces between them; names of special tokens are text like any other.
    Encode {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// A text file; standard input if absent.
        file: Option<PathBuf>,
        /// Let names of special tokens, such as <|eot_id|>, stand for those tokens.
        #[arg(long)]
        special: bool,
        /// Write the ids as little-endian 32-bit numbers instead of text.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the text of token ids (numbers, with anything but digits between them).
    Decode {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// A file of ids; standard input if absent.
        file: Option<PathBuf>,
    },
    /// Train on text files (UTF-8), and write tokenizer.json and its companions.
    Train {
        /// Folder to write.
        out: PathBuf,
        /// The texts.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Tokens in all, the 256 special ones included.
        #[arg(long, default_value_t = 32_768, value_name = "N")]
        vocab_size: usize,
        /// Memory that training may take, such as 1GB, besides some 50 MB for the program; counts that do not fit go to
        /// disk. The result is the same [default: as much as it takes].
        #[arg(long, value_name = "SIZE", value_parser = super::commands::bytes)]
        memory: Option<u64>,
        /// Print what was done as one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Add tokens learned from text files to a vocabulary, whose own tokens keep their ids (Llama 3 added 28,000 for other
    /// languages to 100,000); says what it does for the characters a token holds, file by file.
    Extend {
        /// The tokenizer to begin with: byte-level, with Llama 3's split rule.
        base: PathBuf,
        /// Folder to write.
        out: PathBuf,
        /// The texts.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Tokens in all, the 256 special ones included.
        #[arg(long, value_name = "N")]
        vocab_size: usize,
        /// Memory that training may take, such as 1GB, besides some 50 MB for the program; counts that do not fit go to
        /// disk. The result is the same [default: as much as it takes].
        #[arg(long, value_name = "SIZE", value_parser = super::commands::bytes)]
        memory: Option<u64>,
        /// One JSON object a file.
        #[arg(long)]
        json: bool,
    },
    /// Measure how fast files are encoded: cold (no piece seen before) and warm (the best of five more times).
    Bench {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// The texts.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// One JSON object a file: bytes, tokens, seconds_cold, seconds_warm (wall time).
        #[arg(long)]
        json: bool,
        /// Write each file's ids here, as NAME.ids with little-endian 32-bit numbers, to compare them.
        #[arg(long, value_name = "FOLDER")]
        ids: Option<PathBuf>,
    },
    /// Tokenise documents (Parquet, as `herd data` writes them) into token shards, as the stage `shards` does.
    Shards {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// The documents.
        documents: PathBuf,
        /// Folder to write; it must not be there yet.
        out: PathBuf,
        /// Print what was done as one JSON object: bytes, tokens, documents, threads, seconds (wall time).
        #[arg(long)]
        json: bool,
    },
    /// Write a tokenizer as Hugging Face's files.
    Save {
        /// The tokenizer.
        tokenizer: PathBuf,
        /// Folder to write.
        out: PathBuf,
    },
}

/// What `herd bench` measures.
#[derive(Subcommand)]
pub enum BenchCommand {
    /// Training steps of a fixed workload: W1 to W5, G1, G1P8, G1P64, G3, G8 (W0 is a tiny one).
    ///
    /// W1: 57M parameters, 4 x 512 tokens. W2: the same with 4,096 tokens of packed documents. W3: a vocabulary of
    /// 128,256. W4: 254M parameters, every block computed again. W5: one sequence of 16,384 tokens. For a card: G1, G3:
    /// Llama 3.2 1B's and 3B's shapes, 8,192 tokens. G1P8, G1P64: 1B, 8,192 and 65,536 tokens of packed documents. G8: Llama
    /// 3 8B's shape, forward and backward pass without the optimizer.
    Train(BenchTrainArgs),
    /// Opening a model, reading prompts and writing answers.
    Infer(BenchInferArgs),
}

/// Options of `herd bench infer`.
#[derive(Args)]
pub struct BenchInferArgs {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    pub model: PathBuf,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub new_tokens: usize,
    /// Requests at once.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub requests: usize,
    /// Where and in how many bits to compute.
    #[command(flatten)]
    pub computing: Computing,
    /// Times to measure, opening the model each time.
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub rounds: usize,
    /// One JSON object a round, and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// Options of `herd bench train`.
#[derive(Args)]
pub struct BenchTrainArgs {
    /// The workload.
    #[arg(value_parser = workload)]
    pub workload: Workload,
    /// Steps to make.
    #[arg(long, default_value_t = 6, value_name = "N", conflicts_with = "interactive")]
    pub steps: usize,
    /// What the optimizer's moments are stored as, as `moments` in a recipe.
    #[arg(long, default_value = "f32", value_parser = moments, value_name = "f32|bf16")]
    pub moments: MomentType,
    /// Do not clip the gradient; it is clipped at norm 1 otherwise.
    #[arg(long)]
    pub no_clip: bool,
    /// Update each parameter inside the backward pass, as `in_backward` in a recipe; nothing is clipped then.
    #[arg(long)]
    pub optimizer_in_backward: bool,
    /// Where steps are made, as `device` in a recipe.
    #[arg(long, default_value = "cpu", value_parser = device, value_name = "cpu|cuda")]
    pub device: Device,
    /// What activations are computed in on a card, as `precision` in a recipe.
    #[arg(long, default_value = "bf16", value_parser = precision, value_name = "bf16|f32|tf32")]
    pub precision: Precision,
    /// Compute every block again in the backward pass instead of keeping its insides, as `recompute` in a recipe (W4
    /// always does).
    #[arg(long)]
    pub recompute: bool,
    /// One JSON object a step, and nothing else.
    #[arg(long)]
    pub json: bool,
    /// Make one step for each line `step` of standard input, until it ends.
    #[arg(long)]
    pub interactive: bool,
    /// Other tokens in every step instead of the same.
    #[arg(long)]
    pub fresh: bool,
    /// Write the operators' times for chrome://tracing or ui.perfetto.dev.
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

fn workload(name: &str) -> Result<Workload, String> {
    let names = WORKLOADS.map(|workload| workload.name).join(", ");
    Workload::find(name).ok_or_else(|| format!("there are {names}"))
}

fn precision(name: &str) -> Result<Precision, String> {
    match name {
        "bf16" => Ok(Precision::Bf16),
        "f32" => Ok(Precision::F32),
        "tf32" => Ok(Precision::Tf32),
        _ => Err("there are bf16, f32 and tf32".into()),
    }
}

fn moments(name: &str) -> Result<MomentType, String> {
    match name {
        "f32" => Ok(MomentType::F32),
        "bf16" => Ok(MomentType::Bf16),
        _ => Err("there are f32 and bf16".into()),
    }
}

/// Options of `herd chat`.
#[derive(Args)]
pub struct ChatArgs {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    pub model: PathBuf,
    /// Instructions that the model is given first.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How freely words are chosen; 0 always takes the likeliest.
    #[arg(long, default_value_t = 0.6, value_name = "T")]
    pub temperature: f32,
    /// Choose among the likeliest words that together have this probability.
    #[arg(long, default_value_t = 0.9, value_name = "P")]
    pub top_p: f32,
    /// Longest answer, tokens.
    #[arg(long, default_value_t = 256, value_name = "N")]
    pub max_tokens: usize,
    /// Seed of the choices.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Where and in how many bits to compute.
    #[command(flatten)]
    pub computing: Computing,
}

/// Options of `herd serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// A GGUF file, a Hugging Face model folder, or a run folder.
    pub model: PathBuf,
    /// Address to listen on. Anything but loopback is reachable by others.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub host: std::net::IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Name of the model in the API [default: the folder's name].
    #[arg(long)]
    pub name: Option<String>,
    /// File with the keys that clients must send, one a line [default: everyone may use the server]. The page, /health and
    /// /openapi.json need none.
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Let pages of this origin (such as https://example.org, or * for all) use the server; may be given several times.
    #[arg(long, value_name = "ORIGIN")]
    pub cors: Vec<String>,
    /// Most seconds that an answer may take.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS")]
    pub time_limit: u64,
    /// Tokens that the cache holds, of all prompts and answers together [default: 32,768; on a card what its memory has room
    /// for].
    #[arg(long, value_name = "N")]
    pub cache_tokens: Option<usize>,
    /// Where and in how many bits to compute.
    #[command(flatten)]
    pub computing: Computing,
    /// Answers that are computed at once.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub at_once: usize,
    /// Requests that may wait for their first token, besides one whose prompt is being computed, before further ones are refused
    /// with 429.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub queue: usize,
}

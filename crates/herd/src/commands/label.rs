//! `herd data label`: a chat model labels documents.

use anyhow::Context as _;
use clap::Args;
use herd_data::label::{self, Endpoint, Settings};
use herd_run::{Context, atomic};
use std::path::PathBuf;
use std::time::Duration;

/// Options of `herd data label`.
#[derive(Args)]
pub struct LabelArgs {
    /// The documents: Parquet, JSON Lines, or a run folder for its documents.
    pub documents: PathBuf,
    /// The file to write: text and label as JSON Lines, for `herd data train-classifier`.
    pub out: PathBuf,
    /// A text file that tells the model what the labels mean; {text} in it stands for the document.
    #[arg(long, value_name = "FILE")]
    pub criteria: PathBuf,
    /// The labels to choose from, with commas between them.
    #[arg(long, required = true, value_name = "NAMES", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// The endpoint, up to and without /chat/completions; `herd serve` has it at the default.
    #[arg(long, default_value = "http://127.0.0.1:8080/v1", value_name = "ADDRESS")]
    pub url: String,
    /// The model to ask [default: the first that the endpoint lists].
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// A file whose first line is the key to send.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Requests at the same time.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub at_once: usize,
    /// Times that a question is asked again after an error, or an answer that is no label.
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub retries: u32,
    /// Most seconds that an answer may take.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub timeout: u64,
    /// Characters of a document that are sent.
    #[arg(long, default_value_t = 8000, value_name = "N")]
    pub max_chars: usize,
    /// Longest answer, tokens.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub max_tokens: u32,
    /// Send no JSON schema: for endpoints that do not know `response_format`.
    #[arg(long)]
    pub no_schema: bool,
    /// Price of a million tokens of prompts.
    #[arg(long, default_value_t = 0.0, value_name = "PRICE")]
    pub prompt_price: f64,
    /// Price of a million tokens of answers.
    #[arg(long, default_value_t = 0.0, value_name = "PRICE")]
    pub answer_price: f64,
    /// Most that all requests may cost; then it stops, and continues with a greater limit.
    #[arg(long, value_name = "PRICE")]
    pub max_cost: Option<f64>,
    /// The column that holds the text.
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub text_column: String,
    /// Print what was done as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Labels documents; continues if it was stopped.
pub fn label(args: &LabelArgs, ctx: &Context) -> anyhow::Result<()> {
    let read = |path: &PathBuf| -> anyhow::Result<String> {
        String::from_utf8(atomic::read(path)?).with_context(|| format!("{} is no UTF-8", path.display()))
    };
    let key = match &args.key {
        Some(path) => Some(read(path)?.lines().next().unwrap_or_default().trim().to_string()),
        None => None,
    };
    let settings = Settings {
        criteria: read(&args.criteria)?,
        labels: args.labels.clone(),
        at_once: args.at_once,
        max_chars: args.max_chars,
        prices: (args.prompt_price, args.answer_price),
        max_cost: args.max_cost,
        text_column: args.text_column.clone(),
    };
    // What can be wrong here is told before anybody is asked.
    settings.validate()?;
    let endpoint = Endpoint {
        url: args.url.clone(),
        model: match &args.model {
            Some(model) => model.clone(),
            None => Endpoint::first_model(&args.url, key.as_deref())?,
        },
        key,
        retries: args.retries,
        timeout: Duration::from_secs(args.timeout),
        max_tokens: args.max_tokens,
        schema: !args.no_schema,
    };
    let documents = super::look::rows_file(&args.documents)?;
    let summary = label::label(&documents, &args.out, &endpoint, &settings, ctx)?;
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
        return Ok(());
    }
    let counts: Vec<String> = summary.labels.iter().map(|(label, n)| format!("{label} {n}")).collect();
    println!(
        "{}: {} of {} documents labelled: {}",
        args.out.display(),
        summary.labelled,
        summary.documents,
        counts.join(", ")
    );
    println!(
        "{} requests; {} tokens of prompts, {} of answers, cost {:.4}",
        summary.requests, summary.prompt_tokens, summary.completion_tokens, summary.cost
    );
    if summary.failed > 0 {
        println!("{} have no label: the same command asks about them again", summary.failed);
    }
    Ok(())
}

//! `herd data train-classifier`: a text classifier from labelled texts, linear or a Transformer.

use crate::folder::model_folder;
use anyhow::{Context as _, bail};
use clap::Args;
use herd_align::{Optimization, QualitySettings, train_quality};
use herd_data::classifier::{
    Encoder, Estimate, Evaluation, Labelled, Settings, Trained, evaluate, keep_back, read_labelled, train,
};
use herd_run::Context;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `herd data train-classifier`.
#[derive(Args)]
pub struct TrainArgs {
    /// The model to write: fastText's .bin file, or a folder with --base.
    pub out: PathBuf,
    /// Labelled texts: Parquet, or JSON Lines.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The column that holds the text.
    #[arg(long, default_value = "text", value_name = "NAME")]
    pub text_column: String,
    /// The column that holds the label: a word, a number or true and false.
    #[arg(long, default_value = "label", value_name = "NAME")]
    pub label_column: String,
    /// Train a Transformer of two labels that begins as this language model (a run folder, or a model folder with its
    /// tokenizer) instead of the linear one.
    #[arg(long, value_name = "MODEL")]
    pub base: Option<PathBuf>,
    /// With --base: the label that is scored [default: the rarer].
    #[arg(long, value_name = "NAME", requires = "base")]
    pub positive: Option<String>,
    /// With --base: tokens of a text that are read.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub max_tokens: usize,
    /// Length of the vectors.
    #[arg(long, default_value_t = Settings::default().dimension, value_name = "N")]
    pub dimension: usize,
    /// Passes over the texts [default: 8; with --base 3].
    #[arg(long, value_name = "N")]
    pub epochs: Option<usize>,
    /// Learning rate at the start [default: 0.5; with --base 1e-3].
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f32>,
    /// Longest word n-gram.
    #[arg(long, default_value_t = Settings::default().word_ngrams, value_name = "N")]
    pub word_ngrams: usize,
    /// Subwords of so many characters, such as 3-6; none if absent.
    #[arg(long, value_name = "LEAST-MOST", value_parser = range)]
    pub subwords: Option<(usize, usize)>,
    /// Rows that n-grams and subwords share.
    #[arg(long, default_value_t = Settings::default().buckets, value_name = "N")]
    pub buckets: u32,
    /// Occurrences of a word that has a row of its own.
    #[arg(long, default_value_t = Settings::default().min_count, value_name = "N")]
    pub min_count: i64,
    /// Share of the texts that is kept back to measure the classifier.
    #[arg(long, default_value_t = Settings::default().held_out, value_name = "SHARE")]
    pub held_out: f64,
    /// Seed of the first weights and of the order.
    #[arg(long, default_value_t = Settings::default().seed, value_name = "N")]
    pub seed: u64,
    /// Print what was measured as one JSON object.
    #[arg(long)]
    pub json: bool,
}

fn range(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.filter(|(a, b)| 0 < *a && a <= b).ok_or_else(|| "give two lengths, such as 3-6".to_string())
}

/// Trains, measures, writes.
pub fn train_classifier(args: &TrainArgs, ctx: &Context) -> anyhow::Result<()> {
    let (min_subword, max_subword) = args.subwords.unwrap_or((0, 0));
    let settings = Settings {
        dimension: args.dimension,
        epochs: args.epochs.unwrap_or(Settings::default().epochs),
        learning_rate: args.learning_rate.unwrap_or(Settings::default().learning_rate),
        word_ngrams: args.word_ngrams,
        min_subword,
        max_subword,
        buckets: args.buckets,
        min_count: args.min_count,
        held_out: args.held_out,
        seed: args.seed,
        ..Settings::default()
    };
    let mut examples = Vec::new();
    for file in &args.files {
        examples.extend(read_labelled(file, &args.text_column, &args.label_column)?);
    }
    if let Some(base) = &args.base {
        return train_encoder(args, base, &examples, ctx);
    }
    let began = Instant::now();
    let trained = train(&examples, &settings, ctx)?;
    let seconds = began.elapsed().as_secs_f64();
    trained.classifier.save(&args.out).context("the classifier")?;
    let Trained { examples, words, loss, evaluation, .. } = trained;
    if args.json {
        let all = json!({
            "model": args.out, "examples": examples, "words": words, "loss": loss, "seconds": seconds,
            "evaluation": evaluation,
        });
        println!("{all}");
        return Ok(());
    }
    let counts: Vec<String> = examples.iter().map(|(label, n)| format!("{label} {n}")).collect();
    println!("{}: {} words, trained in {seconds:.1} s on {}", args.out.display(), words, counts.join(", "));
    match evaluation {
        Some(evaluation) => print(&evaluation),
        None => println!("no texts were kept back, so it is not measured"),
    }
    Ok(())
}

/// Trains a Transformer, measures it on the same texts that the linear model would be measured on.
fn train_encoder(args: &TrainArgs, base: &Path, examples: &[Labelled], ctx: &Context) -> anyhow::Result<()> {
    let base = model_folder(base)?;
    let (held_out, kept) = keep_back(examples, args.held_out, args.seed);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    kept.iter().for_each(|e| *counts.entry(&e.label).or_default() += 1);
    let labels: Vec<&str> = counts.keys().copied().collect();
    let [a, b] = labels[..] else {
        bail!("with --base there must be two labels, but there are {}: {}", labels.len(), labels.join(", "));
    };
    let rarer = if counts[a] <= counts[b] { a } else { b };
    let positive = args.positive.as_deref().unwrap_or(rarer);
    let labels = match positive {
        p if p == a => [a, b],
        p if p == b => [b, a],
        other => bail!("'{other}' is none of the labels {a} and {b}"),
    };
    let texts: Vec<(&str, bool)> = kept.iter().map(|e| (e.text.as_str(), e.label == labels[0])).collect();
    let batch_tokens = (4 * args.max_tokens).max(1024);
    let settings = QualitySettings {
        train: Optimization {
            learning_rates: vec![args.learning_rate.unwrap_or(1e-3).into()],
            epochs: args.epochs.unwrap_or(3) as f64,
            batch_tokens,
            micro_batch_tokens: batch_tokens.min(8192),
            warmup: 0.1,
            checkpoint_every: 50,
            ..Optimization::default()
        },
        labels: labels.map(str::to_string),
        max_tokens: args.max_tokens,
        seed: args.seed,
    };
    let began = Instant::now();
    train_quality(&base, &texts, &args.out, &settings, ctx)?;
    let seconds = began.elapsed().as_secs_f64();
    let encoder = Encoder::load(&args.out)?;
    let evaluation = (!held_out.is_empty())
        .then(|| evaluate(&labels, |text| encoder.probabilities(text), &held_out, args.seed));
    if args.json {
        let all =
            json!({ "model": args.out, "examples": counts, "seconds": seconds, "evaluation": evaluation });
        println!("{all}");
        return Ok(());
    }
    println!("{}: trained in {seconds:.1} s on {} texts", args.out.display(), kept.len());
    match evaluation {
        Some(evaluation) => print(&evaluation),
        None => println!("no texts were kept back, so it is not measured"),
    }
    Ok(())
}

fn print(evaluation: &Evaluation) {
    let share = |e: &Estimate| format!("{:.3} ({:.3}-{:.3})", e.value, e.low, e.high);
    println!("on {} texts kept back: accuracy {}", evaluation.texts, share(&evaluation.accuracy));
    println!("\n  {:<16} {:>6}  {:<21}  {:<21}  AUC", "label", "texts", "precision at 0.5", "recall at 0.5");
    for label in &evaluation.labels {
        println!(
            "  {:<16} {:>6}  {:<21}  {:<21}  {}",
            label.label,
            label.texts,
            share(&label.precision),
            share(&label.recall),
            share(&label.auc)
        );
    }
    // Of two labels the second says the same as the first.
    let shown = if evaluation.labels.len() == 2 { 1 } else { evaluation.labels.len() };
    let rarest = evaluation.labels.iter().rev().take(shown);
    for label in rarest {
        println!(
            "\n  {:<16} {:>8} {:>10} {:>8}",
            format!("{} from", label.label),
            "keeps",
            "precision",
            "recall"
        );
        for cut in &label.cut_offs {
            let precision = if cut.precision.is_nan() { "-".into() } else { format!("{:.3}", cut.precision) };
            println!(
                "  {:<16} {:>7.1}% {:>10} {:>8.3}",
                cut.min_score,
                100.0 * cut.kept,
                precision,
                cut.recall
            );
        }
    }
}

//! `herd data train-classifier`: a linear text classifier from labelled texts.

use anyhow::Context as _;
use clap::Args;
use herd_data::classifier::{Estimate, Evaluation, Settings, Trained, read_labelled, train};
use herd_run::Context;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Options of `herd data train-classifier`.
#[derive(Args)]
pub struct TrainArgs {
    /// The model to write: fastText's .bin file.
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
    /// Length of the vectors.
    #[arg(long, default_value_t = Settings::default().dimension, value_name = "N")]
    pub dimension: usize,
    /// Passes over the texts.
    #[arg(long, default_value_t = Settings::default().epochs, value_name = "N")]
    pub epochs: usize,
    /// Learning rate at the start.
    #[arg(long, default_value_t = Settings::default().learning_rate, value_name = "RATE")]
    pub learning_rate: f32,
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
        epochs: args.epochs,
        learning_rate: args.learning_rate,
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

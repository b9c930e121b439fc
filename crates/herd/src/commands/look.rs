//! `herd data inspect`, `sample` and `stats`: looking at what curation did.

use super::view;
use crate::folder::RunFolder;
use anyhow::Context as _;
use clap::Args;
use herd_data::inspect::{self, Limits, View};
use herd_data::sample::{self, Condition};
use herd_data::stats::{self, Column, Question};
use herd_run::atomic;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Options of `herd data inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// A run folder, or the folder `data` in it.
    pub run: PathBuf,
    /// Write a self-contained page instead.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print pages of text, as when the output is no terminal.
    #[arg(long)]
    pub plain: bool,
    /// Only what this rule dropped.
    #[arg(long, value_name = "NAME")]
    pub rule: Option<String>,
    /// Documents, and rejects of each rule, to show.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub count: usize,
    /// Seed of the sample.
    #[arg(long, default_value_t = 17, value_name = "N")]
    pub seed: u64,
}

/// Options of `herd data sample`.
#[derive(Args)]
pub struct SampleArgs {
    /// A Parquet or JSON Lines file, or a run folder for its documents.
    pub file: PathBuf,
    /// Rows that fulfil this: COLUMN=VALUE, or with != < <= > >= or ~ (contains); may be given several times.
    #[arg(long = "where", value_name = "CONDITION")]
    pub conditions: Vec<Condition>,
    /// Rows to draw.
    #[arg(long, short = 'n', default_value_t = 10, value_name = "N")]
    pub count: usize,
    /// Seed of the draw.
    #[arg(long, default_value_t = 17, value_name = "N")]
    pub seed: u64,
    /// Columns to print, with commas between them [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub columns: Vec<String>,
}

/// Options of `herd data stats`.
#[derive(Args)]
pub struct StatsArgs {
    /// A Parquet or JSON Lines file, or a run folder for its documents.
    pub file: PathBuf,
    /// Columns to look at, with commas between them [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Group rows by the values of this column, or by ten ranges of its numbers.
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Rows that count: COLUMN=VALUE, or with != < <= > >= or ~ (contains); may be given several times.
    #[arg(long = "where", value_name = "CONDITION")]
    pub conditions: Vec<Condition>,
    /// Ranges of a histogram.
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub bins: usize,
    /// One JSON object a column and group.
    #[arg(long)]
    pub json: bool,
}

/// The folder of documents and rejects that `path` means.
fn data_folder(path: &Path) -> anyhow::Result<PathBuf> {
    let candidates = [path.to_path_buf(), RunFolder::at(path).data()];
    candidates.into_iter().find(|folder| folder.join("funnel.json").exists()).with_context(|| {
        format!(
            "{}: no funnel.json here or in data/; name a run folder whose stage `data` is done",
            path.display()
        )
    })
}

/// The file that `path` means: itself, or the documents of a run.
pub(super) fn rows_file(path: &Path) -> anyhow::Result<PathBuf> {
    if path.is_dir() { Ok(data_folder(path)?.join("documents.parquet")) } else { Ok(path.to_path_buf()) }
}

/// Shows a curated crawl.
pub fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let data = data_folder(&args.run)?;
    let shards = data.parent().map(|run| run.join("shards"));
    let mut limits =
        Limits { seed: args.seed, rejects: args.count, documents: args.count, ..Limits::default() };
    if args.html.is_some() {
        limits.documents = limits.documents.max(Limits::default().documents);
    }
    let mut view = inspect::look(&data, shards.as_deref(), &limits)?;
    if let Some(rule) = &args.rule {
        let known: Vec<String> = view.rules.iter().map(|r| r.rule.clone()).collect();
        view.rules.retain(|r| r.rule == *rule);
        anyhow::ensure!(
            !view.rules.is_empty(),
            "no document was dropped by '{rule}'; there are {}",
            known.join(", ")
        );
    }
    let name = args.run.canonicalize().unwrap_or_else(|_| args.run.clone());
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    match &args.html {
        Some(path) => {
            atomic::write(path, herd_report::inspection(&view, &name))?;
            println!("{}", path.display());
            Ok(())
        }
        None if io::stdout().is_terminal() && io::stdin().is_terminal() && !args.plain => {
            Ok(view::show(&view, &console::Term::stdout())?)
        }
        None => Ok(plain(&view, args.rule.is_some(), &mut io::stdout().lock())?),
    }
}

/// Pages of plain text.
fn plain(view: &View, rejects_only: bool, out: &mut impl Write) -> io::Result<()> {
    if !rejects_only {
        writeln!(
            out,
            "FUNNEL\n  {:<18} {:>10} {:>10} {:>14} {:>12}",
            "step", "documents", "removed", "bytes", "tokens"
        )?;
        for step in &view.funnel.steps {
            let tokens = view.tokens(&step.step, step.bytes_out).map_or("-".to_string(), |t| t.to_string());
            let removed = step.documents_in - step.documents_out;
            writeln!(
                out,
                "  {:<18} {:>10} {:>10} {:>14} {:>12}",
                step.step, step.documents_out, removed, step.bytes_out, tokens
            )?;
        }
    }
    writeln!(out, "\nREJECTS")?;
    for rule in &view.rules {
        writeln!(out, "\n  {} ({} by {})", rule.rule, rule.dropped, rule.step)?;
        for reject in &rule.examples {
            let reason = &reject.reason;
            writeln!(out, "    {} {} against {}", line(&reject.url, 90), reason.value, reason.threshold)?;
            writeln!(out, "      {}", line(&reason.excerpt, 150))?;
        }
    }
    if rejects_only {
        return Ok(());
    }
    writeln!(out, "\nNEAR-DUPLICATES ({} of {} clusters)", view.clusters.len(), view.clusters_total)?;
    for cluster in &view.clusters {
        writeln!(out, "\n  stays {}", line(&cluster.url, 110))?;
        let kept = cluster.text.as_deref().unwrap_or("(dropped by a later step)");
        for other in &cluster.dropped {
            writeln!(out, "  goes  {} ({:.2})", line(&other.url, 100), other.reason.value)?;
        }
        if let Some(other) = cluster.dropped.first() {
            side_by_side(kept, &other.reason.text, out)?;
        }
    }
    writeln!(out, "\nDOCUMENTS ({} of {})", view.documents.len(), view.total)?;
    for document in &view.documents {
        writeln!(out, "\n  {} [{} {}]", line(&document.url, 100), document.domain.name(), document.language)?;
        let values: Vec<String> = document.values.iter().map(|(n, v)| format!("{n} {v:.3}")).collect();
        writeln!(out, "    {}", values.join(", "))?;
        writeln!(out, "    {}", line(&document.text, 400))?;
    }
    Ok(())
}

/// A text in one line, safe for a terminal.
fn line(text: &str, limit: usize) -> String {
    let mut out: String = text.chars().take(limit).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(limit).is_some() {
        out.push('…');
    }
    out
}

/// The first lines of two texts in two columns.
fn side_by_side(left: &str, right: &str, out: &mut impl Write) -> io::Result<()> {
    const WIDTH: usize = 56;
    let wrap = |text: &str| -> Vec<String> {
        let chars: Vec<char> = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        chars.chunks(WIDTH).take(8).map(|c| c.iter().collect()).collect()
    };
    let (left, right) = (wrap(left), wrap(right));
    for n in 0..left.len().max(right.len()) {
        let side = |lines: &[String]| lines.get(n).cloned().unwrap_or_default();
        let (l, r) = (side(&left), side(&right));
        let same = if l == r { ' ' } else { '|' };
        writeln!(out, "    {l:<WIDTH$} {same} {r}")?;
    }
    Ok(())
}

/// Prints rows drawn by chance.
pub fn sample(args: &SampleArgs) -> anyhow::Result<()> {
    let file = rows_file(&args.file)?;
    let (rows, seen) = sample::sample(&file, &args.conditions, args.count, args.seed)?;
    anyhow::ensure!(seen > 0, "no row of {} fulfils the conditions, or it has none", file.display());
    let mut out = io::stdout().lock();
    for mut row in rows {
        if !args.columns.is_empty() {
            if let Some(missing) = args.columns.iter().find(|c| !row.contains_key(*c)) {
                let there: Vec<_> = row.keys().map(String::as_str).collect();
                anyhow::bail!("{}: no column `{missing}`; there are {}", file.display(), there.join(", "));
            }
            row.retain(|name, _| args.columns.contains(name));
        }
        serde_json::to_writer(&mut out, &Value::Object(row))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Prints what is in columns.
pub fn stats(args: &StatsArgs) -> anyhow::Result<()> {
    let file = rows_file(&args.file)?;
    let question = Question {
        columns: args.columns.clone(),
        by: args.by.clone(),
        conditions: args.conditions.clone(),
        bins: args.bins,
    };
    let columns = stats::stats(&file, &question)?;
    anyhow::ensure!(
        columns.iter().any(|column| column.rows > 0),
        "no row of {} fulfils the conditions, or it has none",
        file.display()
    );
    let mut out = io::stdout().lock();
    if args.json {
        for column in &columns {
            serde_json::to_writer(&mut out, column)?;
            out.write_all(b"\n")?;
        }
        return Ok(());
    }
    let mut group = None;
    for column in &columns {
        if column.group != group {
            group.clone_from(&column.group);
            let by = args.by.as_deref().unwrap_or_default();
            writeln!(out, "{by} {}", group.as_deref().unwrap_or_default())?;
        }
        print(column, &mut out)?;
    }
    Ok(())
}

fn print(column: &Column, out: &mut impl Write) -> io::Result<()> {
    let absent = if column.absent > 0 { format!(", {} absent", column.absent) } else { String::new() };
    writeln!(out, "  {}: {} rows, {} distinct{absent}", column.column, column.rows, column.distinct)?;
    if let Some(n) = &column.numbers {
        let named = stats::QUANTILES.iter().zip(n.quantiles);
        let quantiles: Vec<String> = named.map(|(q, v)| format!("{:.0}% {}", q * 100.0, short(v))).collect();
        let (mean, deviation) = (short(n.mean), short(n.deviation));
        writeln!(
            out,
            "    {} mean {mean} +- {deviation}; least {}, {}, greatest {}",
            n.of,
            short(n.min),
            quantiles.join(", "),
            short(n.max)
        )?;
        let most = n.histogram.iter().map(|(_, c)| *c).max().unwrap_or(1).max(1);
        // How long a few words are says nothing.
        let is_shown = n.histogram.len() > 1 && (n.of == "value" || column.distinct > 100);
        for (from, count) in n.histogram.iter().filter(|_| is_shown) {
            let bar = "#".repeat((count * 40).div_ceil(most) as usize);
            writeln!(out, "    {:>12} {count:>9} {bar}", short(*from))?;
        }
    }
    if column.numbers.as_ref().is_none_or(|n| n.of != "value") {
        for (value, count) in &column.frequent {
            writeln!(out, "    {count:>9}  {}", line(value, 80))?;
        }
    }
    Ok(())
}

/// Four significant digits.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        a if a >= 1000.0 => format!("{value:.0}"),
        a if a >= 0.001 => format!("{value:.*}", (3 - a.log10().floor() as i32).max(0) as usize),
        _ => format!("{value:.3e}"),
    }
}

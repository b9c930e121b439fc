//! `herd data mix`: what the mix of a recipe contains, in tokens.

use super::pipeline::run_folder;
use crate::cli::RunArgs;
use crate::recipe::Recipe;
use clap::Args;
use herd_tokenizer::shard::ShardIndex;
use herd_train::pretrain::{self, MixRow};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Options of `herd data mix`.
#[derive(Args)]
pub struct MixArgs {
    /// The recipe, and the run folder whose shards are counted.
    #[command(flatten)]
    pub run: RunArgs,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Documents and tokens of a language in a domain, from bytes where only those are known.
#[derive(serde::Serialize)]
struct Part {
    domain: String,
    language: String,
    documents: u64,
    bytes: u64,
    /// By the domain's tokens per byte.
    tokens: Option<u64>,
}

/// Prints the plan, and what the documents are if they are there.
pub fn mix(args: &MixArgs) -> anyhow::Result<()> {
    let recipe = Recipe::load(&args.run.recipe)?;
    let folder = run_folder(&args.run, &recipe);
    let index = match folder.shards().join("index.json").exists() {
        true => Some(ShardIndex::load(&folder.shards())?),
        false => None,
    };
    let domains: Vec<(String, Option<u64>)> = match &index {
        Some(index) => index.domains.iter().map(|d| (d.name.clone(), Some(d.train.tokens))).collect(),
        None => herd_train::DOMAINS.iter().map(|name| (name.to_string(), None)).collect(),
    };
    let plan = pretrain::plan(&recipe.pretrain, &domains);
    let documents = folder.documents();
    let parts = if documents.exists() { parts(&documents, index.as_ref())? } else { Vec::new() };
    if args.json {
        println!("{}", json!({ "plan": plan, "documents": parts }));
        return Ok(());
    }
    print_plan(&plan);
    if index.is_none() {
        println!("\n{} has no shards yet, so passes are not known", folder.root().display());
    }
    if !parts.is_empty() {
        println!(
            "\n  {:<14} {:<9} {:>10} {:>14} {:>14}",
            "domain", "language", "documents", "bytes", "tokens"
        );
        for part in &parts {
            let tokens = part.tokens.map_or("-".to_string(), |t| t.to_string());
            println!(
                "  {:<14} {:<9} {:>10} {:>14} {:>14}",
                part.domain, part.language, part.documents, part.bytes, tokens
            );
        }
    }
    Ok(())
}

fn print_plan(plan: &[MixRow]) {
    println!("  {:<20} {:<14} {:>16} {:>8} {:>10}", "phase", "domain", "tokens", "share", "passes");
    let mut phase = "";
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    for row in plan {
        *total.entry(&row.domain).or_default() += row.tokens;
        let name = if row.phase == phase { "" } else { &row.phase };
        phase = &row.phase;
        let epochs = row.epochs.map_or("-".to_string(), |e| format!("{e:.2}"));
        let share = 100.0 * row.share;
        println!("  {name:<20} {:<14} {:>16} {share:>7.1}% {epochs:>10}", row.domain, row.tokens);
    }
    let all: u64 = total.values().sum();
    for (n, (domain, tokens)) in total.iter().enumerate() {
        let share = 100.0 * *tokens as f64 / all.max(1) as f64;
        println!("  {:<20} {domain:<14} {tokens:>16} {share:>7.1}%", if n == 0 { "all" } else { "" });
    }
}

/// Documents by domain and language.
fn parts(documents: &Path, index: Option<&ShardIndex>) -> anyhow::Result<Vec<Part>> {
    let mut counts: BTreeMap<(String, String), (u64, u64)> = BTreeMap::new();
    for document in herd_data::documents::read(documents)? {
        let document = document?;
        let entry = counts.entry((document.domain.name().to_string(), document.language)).or_default();
        *entry = (entry.0 + 1, entry.1 + document.text.len() as u64);
    }
    let rate = |domain: &str| {
        let found = index?.domains.iter().find(|d| d.name == domain)?;
        let (tokens, bytes) =
            (found.train.tokens + found.held_out.tokens, found.train.bytes + found.held_out.bytes);
        (bytes > 0).then(|| tokens as f64 / bytes as f64)
    };
    let part = |((domain, language), (documents, bytes)): ((String, String), (u64, u64))| {
        let tokens = rate(&domain).map(|rate| (rate * bytes as f64) as u64);
        Part { domain, language, documents, bytes, tokens }
    };
    Ok(counts.into_iter().map(part).collect())
}

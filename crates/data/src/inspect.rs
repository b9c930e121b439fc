//! What a person looks at to trust a curated crawl: the funnel, what each rule dropped and why, near-duplicates beside
//! the document that stands for them, and documents that stayed. Everything is a sample by seed, so that two people see
//! the same.

use crate::documents::{self, Document, DocumentsError};
use crate::funnel::Funnel;
use crate::rejects::{self, Reject};
use crate::sample::Reservoir;
use herd_run::atomic;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How much is shown.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Documents that stayed.
    pub documents: usize,
    /// Rejects of each rule.
    pub rejects: usize,
    /// Clusters of near-duplicates.
    pub clusters: usize,
    /// Seed of all samples.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { documents: 24, rejects: 8, clusters: 12, seed: 17 }
    }
}

/// What a rule dropped.
#[derive(Debug, Clone)]
pub struct RuleView {
    /// The rule.
    pub rule: String,
    /// The step of the funnel that it belongs to; empty if the funnel does not know it.
    pub step: String,
    /// Documents that it dropped.
    pub dropped: u64,
    /// Examples.
    pub examples: Vec<Reject>,
}

/// Documents that are nearly the same.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// URL of the one that stands for them.
    pub url: String,
    /// The beginning of its text; `None` if a later step dropped it.
    pub text: Option<String>,
    /// Those that went for it, with their similarity as value.
    pub dropped: Vec<Reject>,
}

/// Everything that is shown of a `data` folder.
#[derive(Debug, Clone)]
pub struct View {
    /// Documents and bytes after each step.
    pub funnel: Funnel,
    /// Tokens of a byte of text, from the shards of the run if it has them.
    pub tokens_per_byte: Option<f64>,
    /// Documents in all.
    pub total: u64,
    /// Documents that stayed.
    pub documents: Vec<Document>,
    /// By rule, in the order of the funnel.
    pub rules: Vec<RuleView>,
    /// Clusters in all.
    pub clusters_total: u64,
    /// Clusters, the largest first.
    pub clusters: Vec<ClusterView>,
}

/// The rule of near-duplicates and the words before the URL in its excerpt.
const NEAR_DUPLICATE: (&str, &str) = ("near duplicate", "like ");

/// Characters of a text that are shown beside another.
const BEGINNING: usize = 1500;

impl View {
    /// Tokens of that many bytes of text, if that is known. Steps before extraction count bytes of HTML, which have none.
    pub fn tokens(&self, step: &str, bytes: u64) -> Option<u64> {
        let is_html = ["fetch", "decode"].contains(&step);
        self.tokens_per_byte.filter(|_| !is_html).map(|rate| (bytes as f64 * rate) as u64)
    }
}

/// Reads the folder that `herd data` wrote. `shards` is the folder of token shards of the same run, if there is one.
///
/// # Errors
///
/// A file that is missing or cannot be read.
pub fn look(data: &Path, shards: Option<&Path>, limits: &Limits) -> Result<View, DocumentsError> {
    let funnel: Funnel = atomic::read_json(&data.join("funnel.json"))?;
    let (rules, clusters, clusters_total) = look_at_rejects(data, &funnel, limits)?;
    let wanted: BTreeSet<&str> = clusters.iter().map(|c| c.url.as_str()).collect();
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    let reader = documents::read(&data.join("documents.parquet"))?;
    let total = reader.total();
    let mut kept = Reservoir::new(limits.documents, limits.seed, &[1]);
    for document in reader {
        let document = document?;
        if wanted.contains(document.url.as_str()) {
            texts.insert(document.url.clone(), document.text.chars().take(BEGINNING).collect());
        }
        kept.offer(|| document);
    }
    let clusters =
        clusters.into_iter().map(|c| ClusterView { text: texts.get(&c.url).cloned(), ..c }).collect();
    let tokens_per_byte = shards.and_then(tokens_per_byte);
    Ok(View { funnel, tokens_per_byte, total, documents: kept.finish(), rules, clusters_total, clusters })
}

type Rejects = (Vec<RuleView>, Vec<ClusterView>, u64);

fn look_at_rejects(data: &Path, funnel: &Funnel, limits: &Limits) -> Result<Rejects, DocumentsError> {
    let path = data.join("rejects.parquet");
    let mut by_rule: BTreeMap<String, Reservoir<Reject>> = BTreeMap::new();
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for reject in rejects::read(&path)? {
        let reject = reject?;
        let rule = reject.reason.rule.clone();
        if rule == NEAR_DUPLICATE.0 {
            *sizes.entry(representative(&reject).to_string()).or_default() += 1;
        }
        by_rule
            .entry(rule)
            .or_insert_with(|| Reservoir::new(limits.rejects, limits.seed, &[2]))
            .offer(|| reject);
    }
    let mut largest: Vec<(u64, String)> = sizes.into_iter().map(|(url, n)| (n, url)).collect();
    let clusters_total = largest.len() as u64;
    largest.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    // The largest few, and others by chance: the largest alone are all of one kind.
    let rest = largest.split_off(largest.len().min(limits.clusters.div_ceil(2)));
    let mut others = Reservoir::new(limits.clusters - largest.len(), limits.seed, &[3]);
    rest.into_iter().for_each(|cluster| others.offer(|| cluster));
    largest.extend(others.finish());
    let mut clusters: BTreeMap<String, ClusterView> = BTreeMap::new();
    for (_, url) in &largest {
        let view = ClusterView { url: url.clone(), text: None, dropped: Vec::new() };
        clusters.insert(url.clone(), view);
    }
    for reject in rejects::read(&path)? {
        let reject = reject?;
        if reject.reason.rule == NEAR_DUPLICATE.0
            && let Some(cluster) = clusters.get_mut(representative(&reject))
            && cluster.dropped.len() < limits.rejects
        {
            cluster.dropped.push(reject);
        }
    }
    let clusters = largest.iter().filter_map(|(_, url)| clusters.remove(url)).collect();

    let step_of = |rule: &str| funnel.steps.iter().position(|s| s.dropped.contains_key(rule));
    let mut rules: Vec<RuleView> = by_rule
        .into_iter()
        .map(|(rule, kept)| {
            let step = step_of(&rule).map_or(String::new(), |at| funnel.steps[at].step.clone());
            RuleView { dropped: kept.seen(), step, rule, examples: kept.finish() }
        })
        .collect();
    rules.sort_by_key(|r| (step_of(&r.rule).unwrap_or(usize::MAX), std::cmp::Reverse(r.dropped)));
    Ok((rules, clusters, clusters_total))
}

/// The URL of the document that a near-duplicate went for.
fn representative(reject: &Reject) -> &str {
    reject.reason.excerpt.strip_prefix(NEAR_DUPLICATE.1).unwrap_or(&reject.reason.excerpt)
}

fn tokens_per_byte(shards: &Path) -> Option<f64> {
    let summary: Value = atomic::read_json(&shards.join("summary.json")).ok()?;
    let tokens = summary["tokens"].as_f64()?;
    let bytes: f64 = summary["domains"].as_array()?.iter().filter_map(|d| d["bytes"].as_f64()).sum();
    (bytes > 0.0).then(|| tokens / bytes)
}

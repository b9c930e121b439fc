//! Bits per byte on held-out documents, for the Transformer and for n-gram models that were trained on the same
//! tokens: `Σ -log2 p(token | before) / Σ bytes`, over the same documents and tokens for all.

use crate::held_out::{HeldOut, Shards, TrainDocuments};
use crate::interval::{self, Paired, Ratio};
use crate::likelihood::{Request, Scorer};
use crate::ngram::NGram;
use crate::{Error, Settings};
use herd_run::Context;
use herd_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Names of the n-gram models, by order from 1.
pub const NGRAMS: [&str; 3] = ["unigram", "bigram", "trigram"];

/// One document's result: a line of `bits_per_byte.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DocumentRecord {
    /// Domain.
    pub domain: String,
    /// Number of the document in the domain's held-out shard.
    pub document: usize,
    /// Tokens predicted: all but the first.
    pub tokens: usize,
    /// Bytes of its text.
    pub bytes: u64,
    /// Bits that the Transformer needs.
    pub transformer: f64,
    /// Bits that the trigram model needs.
    pub trigram: f64,
    /// Bits that the bigram model needs.
    pub bigram: f64,
    /// Bits that the unigram model needs.
    pub unigram: f64,
}

impl DocumentRecord {
    fn ngram(&self, name: &str) -> f64 {
        match name {
            "unigram" => self.unigram,
            "bigram" => self.bigram,
            _ => self.trigram,
        }
    }
}

/// Bits per byte of one domain, or of all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainBits {
    /// Domain, or `all`.
    pub domain: String,
    /// Documents measured.
    pub documents: usize,
    /// Tokens predicted.
    pub tokens: usize,
    /// Bytes of text.
    pub bytes: u64,
    /// The Transformer.
    pub transformer: Ratio,
    /// Interpolated modified Kneser-Ney of order 3.
    pub trigram: Ratio,
    /// Order 2.
    pub bigram: Ratio,
    /// Order 1.
    pub unigram: Ratio,
}

/// The Transformer against one n-gram model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// The n-gram model.
    pub model: String,
    /// Paired over all documents.
    #[serde(flatten)]
    pub test: Paired,
}

/// An n-gram model as trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NGramFacts {
    /// Its name.
    pub model: String,
    /// Different n-grams of each length that it holds.
    pub entries: Vec<usize>,
}

/// The whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BitsPerByte {
    /// Per domain, in the order of the shards' index; a domain without held-out documents is left out.
    pub domains: Vec<DomainBits>,
    /// All domains together; absent without any held-out document.
    pub all: Option<DomainBits>,
    /// Paired tests of the Transformer against each n-gram model, highest order first.
    pub against: Vec<Against>,
    /// The n-gram models.
    pub ngrams: Vec<NGramFacts>,
    /// Documents and tokens that the n-gram models were trained on: all training shards.
    pub trained_on_documents: u64,
    /// See `trained_on_documents`.
    pub trained_on_tokens: u64,
}

/// Measures everything.
///
/// # Errors
/// A stop was asked for; shards that are no documents; a model that gives no numbers.
pub fn measure(
    settings: &Settings,
    scorer: &Scorer,
    tokenizer: &Tokenizer,
    shards: &Shards,
    ctx: &Context,
) -> Result<(BitsPerByte, Vec<DocumentRecord>), Error> {
    let limits = &settings.bits_per_byte;
    let documents: Vec<HeldOut> = (0..shards.index.domains.len())
        .flat_map(|domain| {
            shards.draw(
                domain,
                limits.tokens_per_domain,
                limits.tokens_per_document,
                tokenizer,
                settings.seed,
            )
        })
        .collect();
    let transformer = transformer_bits(&documents, limits.context, scorer, ctx)?;

    let task = ctx.progress.task("n-grams", Some(NGRAMS.len() as u64), "orders");
    let mut ngram_bits = Vec::new();
    let mut ngrams = Vec::new();
    for (name, order) in NGRAMS.iter().zip(1..) {
        ctx.stop.check()?;
        let model = NGram::train(&TrainDocuments(shards), shards.index.vocab_size, order)?;
        ngram_bits.push(documents.par_iter().map(|d| model.bits(&d.ids)).collect::<Vec<f64>>());
        ngrams.push(NGramFacts { model: name.to_string(), entries: model.entries() });
        task.add(1);
    }
    let records: Vec<DocumentRecord> = documents
        .iter()
        .enumerate()
        .map(|(i, document)| DocumentRecord {
            domain: shards.index.domains[document.domain].name.clone(),
            document: document.number,
            tokens: document.ids.len() - 1,
            bytes: document.bytes,
            transformer: transformer[i],
            trigram: ngram_bits[2][i],
            bigram: ngram_bits[1][i],
            unigram: ngram_bits[0][i],
        })
        .collect();
    let summary = BitsPerByte {
        domains: shards
            .index
            .domains
            .iter()
            .filter_map(|domain| {
                let of_domain: Vec<_> = records.iter().filter(|r| r.domain == domain.name).collect();
                domain_bits(&domain.name, &of_domain, settings.seed)
            })
            .collect(),
        all: domain_bits("all", &records.iter().collect::<Vec<_>>(), settings.seed),
        against: NGRAMS.iter().rev().map(|name| against(name, &records, settings.seed)).collect(),
        ngrams,
        trained_on_documents: shards.index.domains.iter().map(|d| d.train.documents).sum(),
        trained_on_tokens: shards.index.domains.iter().map(|d| d.train.tokens).sum(),
    };
    Ok((summary, records))
}

/// Bits per document under the Transformer. A document longer than `context` is read in windows that overlap by half.
fn transformer_bits(
    documents: &[HeldOut],
    context: usize,
    scorer: &Scorer,
    ctx: &Context,
) -> Result<Vec<f64>, Error> {
    let context = context.min(scorer.llama.config.max_position_embeddings).max(2);
    let mut owners = Vec::new();
    let mut requests = Vec::new();
    for (owner, document) in documents.iter().enumerate() {
        for request in windows(&document.ids, context) {
            owners.push(owner);
            requests.push(request);
        }
    }
    let task = ctx.progress.task("bits per byte", Some(requests.len() as u64), "windows");
    let scores = scorer.score(requests, ctx, |n| task.add(n))?;
    let mut bits = vec![0.0; documents.len()];
    for (owner, score) in owners.into_iter().zip(scores) {
        bits[owner] -= score[0] / std::f64::consts::LN_2;
    }
    Ok(bits)
}

/// Cuts a document into windows such that each token but the first is predicted once, by a window of at most `context`
/// rows and, from the second window on, with at least half of them before it.
fn windows(ids: &[u32], context: usize) -> Vec<Request> {
    let mut windows = Vec::new();
    let mut scored = 1;
    while scored < ids.len() {
        let start = if scored == 1 { 0 } else { scored - context.div_ceil(2) };
        let end = (start + context + 1).min(ids.len());
        windows.push(Request {
            prefix: ids[start..scored].to_vec(),
            continuations: vec![ids[scored..end].to_vec()],
        });
        scored = end;
    }
    windows
}

fn domain_bits(domain: &str, records: &[&DocumentRecord], seed: u64) -> Option<DomainBits> {
    if records.is_empty() {
        return None;
    }
    let ratio = |bits: &dyn Fn(&DocumentRecord) -> f64| {
        let pairs: Vec<_> = records.iter().map(|r| (bits(r), r.bytes as f64)).collect();
        interval::ratio(&pairs, seed)
    };
    Some(DomainBits {
        domain: domain.to_string(),
        documents: records.len(),
        tokens: records.iter().map(|r| r.tokens).sum(),
        bytes: records.iter().map(|r| r.bytes).sum(),
        transformer: ratio(&|r| r.transformer),
        trigram: ratio(&|r| r.trigram),
        bigram: ratio(&|r| r.bigram),
        unigram: ratio(&|r| r.unigram),
    })
}

fn against(model: &str, records: &[DocumentRecord], seed: u64) -> Against {
    let triples: Vec<_> = records.iter().map(|r| (r.transformer, r.ngram(model), r.bytes as f64)).collect();
    Against { model: model.to_string(), test: interval::paired(&triples, seed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_scored_once_with_enough_before_it() {
        for length in 2..60u32 {
            let ids: Vec<u32> = (0..length).collect();
            for context in [2, 3, 8, 17, 100] {
                let mut next = 1;
                for window in windows(&ids, context) {
                    let [continuation] = &window.continuations[..] else { panic!("one continuation") };
                    assert_eq!(continuation[0], next, "no gap, no overlap");
                    assert_eq!(*window.prefix.last().unwrap() + 1, next, "the prefix stands just before");
                    assert!(window.prefix.len() + continuation.len() - 1 <= context);
                    assert!(next == 1 || window.prefix.len() >= context / 2);
                    next += continuation.len() as u32;
                }
                assert_eq!(next, length);
            }
        }
    }
}

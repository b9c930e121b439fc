//! The sampler over the domain shards: which tokens step `s` trains on.
//!
//! A domain's documents are visited in a seeded permutation per epoch; the next document comes from the domain that
//! is furthest behind its weight, so the proportions hold to within a document at any moment. A document longer than
//! what is left of a sequence is continued in the next one: every token of an epoch is a target exactly once (the
//! first token of a document excepted, which nothing precedes). The whole state is a few integers per domain.

use crate::needle;
use crate::packing::{MicroBatch, Packer};
use crate::random::{Permutation, Random};
use herd_tokenizer::shard::{ShardIndex, TokenShard};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Weights are held as integers that sum to this, so that the state is exact in any notation.
const UNIT: i64 = 1_000_000;

/// Where the stream over the shards stands; with the seed it determines everything that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// One cursor per domain, in the loader's order.
    pub cursors: Vec<Cursor>,
    /// The document that a sequence's end cut, if any.
    pub open: Option<OpenDocument>,
    /// Needle sequences owed, in millionths.
    pub needle_credit: i64,
    /// Needle documents made so far.
    pub needles: u64,
}

/// Where the stream stands in one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// Passes over the domain that are complete.
    pub epoch: u64,
    /// Documents of the current pass that were begun.
    pub next: u64,
    /// Tokens owed to the domain, in millionths; negative if it is ahead.
    pub credit: i64,
    /// Rows taken from the domain so far.
    pub rows: u64,
}

/// A document of which a part was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDocument {
    /// Its domain.
    pub domain: usize,
    /// Its number in the shard.
    pub document: u64,
    /// First token not yet used as an input.
    pub offset: u64,
}

/// What one step asks of the loader.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Sequences in the step.
    pub sequences: usize,
    /// Tokens in a sequence.
    pub sequence: usize,
    /// Sequences that go through the model together.
    pub sequences_per_micro_batch: usize,
    /// Weight per domain, in the loader's order, summing to 1.
    pub weights: Vec<f64>,
    /// Share of the sequences that are needle documents of full length.
    pub needle_share: f64,
}

/// One domain's documents.
struct Domain {
    name: String,
    shard: TokenShard,
}

impl Domain {
    /// First token of a document in the shard, and its length.
    fn span(&self, document: u64) -> (u64, u64) {
        let range = self.shard.document_range(document as usize);
        (range.start, range.end - range.start)
    }
}

/// The sampler. Cheap to clone: the shards are shared.
#[derive(Clone)]
pub struct Loader {
    domains: Arc<Vec<Domain>>,
    needles: Option<Arc<needle::Sentences>>,
    seed: u64,
    state: State,
}

/// Why the training data cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A shard or the index cannot be read.
    #[error(transparent)]
    Shard(#[from] herd_tokenizer::Error),
    /// No document has two tokens.
    #[error("{folder}: the training shards hold no document to train on; check the funnel of the data stage")]
    Empty {
        /// The shards' folder.
        folder: String,
    },
}

impl Loader {
    /// Opens the training shards that `index.json` in `folder` lists. Domains without a usable document are left out.
    pub fn open(folder: &Path, seed: u64) -> Result<Self, Error> {
        let index = ShardIndex::load(folder)?;
        let mut shards = Vec::new();
        for domain in index.domains {
            if domain.train.documents > 0 {
                shards.push((domain.name, TokenShard::open(folder.join(&domain.train.file))?));
            }
        }
        Self::new(shards, seed).ok_or_else(|| Error::Empty { folder: folder.display().to_string() })
    }

    /// A sampler over named shards; `None` if none of them has a document of two tokens.
    pub fn new(shards: Vec<(String, TokenShard)>, seed: u64) -> Option<Self> {
        let domains: Vec<Domain> = shards
            .into_iter()
            .map(|(name, shard)| Domain { name, shard })
            .filter(|domain| (0..domain.shard.documents() as u64).any(|d| domain.span(d).1 > 1))
            .collect();
        let cursors = vec![Cursor { epoch: 0, next: 0, credit: 0, rows: 0 }; domains.len()];
        let state = State { cursors, open: None, needle_credit: 0, needles: 0 };
        let domains = Arc::new(domains);
        (!domains.is_empty()).then_some(Self { domains, needles: None, seed, state })
    }

    /// The same sampler, able to make needle documents with these sentences.
    pub fn with_needles(mut self, sentences: Arc<needle::Sentences>) -> Self {
        self.needles = Some(sentences);
        self
    }

    /// Names of the domains, in the order of every weight list.
    pub fn domains(&self) -> Vec<String> {
        self.domains.iter().map(|domain| domain.name.clone()).collect()
    }

    /// Rows (predicted tokens) in one pass over each domain.
    pub fn rows_per_pass(&self) -> Vec<u64> {
        let rows = |domain: &Domain| domain.shard.tokens() - domain.shard.documents() as u64;
        self.domains.iter().map(rows).collect()
    }

    /// Where the stream stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Continues from a saved state; `false` (and unchanged) if it belongs to other domains.
    pub fn restore(&mut self, state: State) -> bool {
        let fits = state.cursors.len() == self.domains.len()
            && state
                .cursors
                .iter()
                .zip(self.domains.iter())
                .all(|(c, d)| c.next <= d.shard.documents() as u64)
            && state.open.is_none_or(|open| {
                let domain = self.domains.get(open.domain);
                domain.is_some_and(|domain| open.document < domain.shard.documents() as u64)
            });
        if fits {
            self.state = state;
        }
        fits
    }

    /// The micro-batches of the next step: exactly `sequences * sequence` rows in all, documents in full until a
    /// sequence ends.
    pub fn next(&mut self, request: &Request) -> Vec<MicroBatch> {
        let weights = integer_weights(&request.weights);
        let needle_share = (request.needle_share.clamp(0.0, 1.0) * UNIT as f64).round() as i64;
        let per_micro = request.sequences_per_micro_batch.max(1);
        let mut packer = Packer::default();
        let mut out = Vec::with_capacity(request.sequences.div_ceil(per_micro));
        for i in 0..request.sequences {
            self.state.needle_credit += needle_share;
            match self.needles.clone() {
                Some(sentences) if self.state.needle_credit >= UNIT => {
                    self.state.needle_credit -= UNIT;
                    self.needle_sequence(&sentences, request.sequence, &mut packer);
                }
                _ => self.sequence(request.sequence, &weights, &mut packer),
            }
            if (i + 1) % per_micro == 0 || i + 1 == request.sequences {
                out.push(packer.finish());
            }
        }
        out
    }

    /// Fills one sequence with documents.
    fn sequence(&mut self, length: usize, weights: &[i64], packer: &mut Packer) {
        let end = packer.rows() + length;
        let mut tokens = Vec::with_capacity(length + 1);
        while packer.rows() < end {
            let open = match self.state.open.take() {
                Some(open) => open,
                None => self.begin_document(weights),
            };
            let domain = &self.domains[open.domain];
            let (start, size) = domain.span(open.document);
            let left = size.saturating_sub(1 + open.offset);
            let rows = left.min((end - packer.rows()) as u64);
            if rows > 0 {
                let from = start + open.offset;
                tokens.clear();
                domain.shard.read(from..from + rows + 1, &mut tokens);
                packer.push(Some(open.domain), open.document, open.offset, &tokens);
                self.state.cursors[open.domain].rows += rows;
            }
            if rows < left {
                self.state.open = Some(OpenDocument { offset: open.offset + rows, ..open });
            }
        }
    }

    /// The next document of the domain that is furthest behind; its whole length is charged at once.
    fn begin_document(&mut self, weights: &[i64]) -> OpenDocument {
        let owed =
            |&(i, &weight): &(usize, &i64)| (weight > 0).then(|| self.state.cursors[i].credit + weight);
        let domain = weights
            .iter()
            .enumerate()
            .filter(|entry| owed(entry).is_some())
            .max_by_key(|entry| (owed(entry), std::cmp::Reverse(entry.0)))
            .map_or(0, |(i, _)| i);
        let count = self.domains[domain].shard.documents() as u64;
        let cursor = &mut self.state.cursors[domain];
        if cursor.next == count {
            cursor.next = 0;
            cursor.epoch += 1;
        }
        let order = Permutation::new(count, self.seed, &[1, domain as u64, cursor.epoch]);
        let document = order.at(cursor.next);
        cursor.next += 1;
        let rows = self.domains[domain].span(document).1.saturating_sub(1) as i64;
        for (cursor, weight) in self.state.cursors.iter_mut().zip(weights) {
            cursor.credit += rows * weight;
        }
        self.state.cursors[domain].credit -= rows * UNIT;
        OpenDocument { domain, document, offset: 0 }
    }

    /// Fills one sequence with one needle document, its filler drawn from all domains.
    fn needle_sequence(&mut self, sentences: &needle::Sentences, length: usize, packer: &mut Packer) {
        let number = self.state.needles;
        self.state.needles += 1;
        let random = Random::new(self.seed, &[2, number]);
        let filler = self.filler(length + 1, random);
        packer.push(None, number, 0, &sentences.training_document(&filler, length + 1, random));
    }

    /// At least `length` tokens of running text from documents drawn at random, without their first and last token.
    pub fn filler(&self, length: usize, random: Random) -> Vec<u32> {
        let shards: Vec<&TokenShard> = self.domains.iter().map(|domain| &domain.shard).collect();
        filler(&shards, length, random)
    }
}

/// At least `length` tokens of running text from documents drawn at random (each token of a shard alike likely to be
/// met), without the first and last token of a document, which mark its ends. Empty if no document has inner tokens.
pub fn filler(shards: &[&TokenShard], length: usize, random: Random) -> Vec<u32> {
    let total: u64 = shards.iter().map(|shard| shard.tokens()).sum();
    let mut out = Vec::with_capacity(length + 1024);
    if !shards.iter().any(|shard| shard.tokens() > 2 * shard.documents() as u64) {
        return out;
    }
    let mut draw = 1 << 32;
    while out.len() < length {
        draw += 1;
        let mut at = random.below(draw, total);
        for shard in shards {
            if at >= shard.tokens() {
                at -= shard.tokens();
                continue;
            }
            let span = shard.document_range(shard.document_ends().partition_point(|&end| end <= at));
            let (from, to) = (span.start + 1, span.end.saturating_sub(1));
            if from < to {
                // A long document is entered at the drawn token, so that its later parts are met as well.
                let from = if to - from > length as u64 { at.clamp(from, to - 1) } else { from };
                shard.read(from..to.min(from + length as u64), &mut out);
            }
            break;
        }
    }
    out
}

/// Weights in millionths that sum to exactly one; what rounding leaves over goes to the largest.
fn integer_weights(weights: &[f64]) -> Vec<i64> {
    let mut out: Vec<i64> = weights.iter().map(|w| (w * UNIT as f64).round() as i64).collect();
    let rest = UNIT - out.iter().sum::<i64>();
    if let Some(largest) = out.iter_mut().max() {
        *largest += rest;
    }
    out
}

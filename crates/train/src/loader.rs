//! The sampler over the domain shards: which tokens step `s` trains on.
//!
//! A domain's documents are visited in a seeded permutation per epoch. Each domain keeps a few of them open at once
//! and takes the next stretch from each in turn, so that a long document does not fill a whole batch. Whose turn it is
//! is decided by which domain is furthest behind its weight, so the proportions hold to within a sequence at any
//! moment. A document longer than what is left of a sequence is continued in a later one: every token of an epoch is a
//! target exactly once (the first token of a document excepted, which nothing precedes). The whole state is a few
//! integers per open document.

use crate::needle;
use crate::packing::{MicroBatch, Packer};
use crate::pretrain::capped;
use herd_run::random::{Permutation, Random};
use herd_tokenizer::shard::{ShardIndex, TokenShard};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

/// Documents that a domain keeps open. Rows of one document are so many stretches of its domain apart.
const LANES: usize = 32;

/// Weights are held as integers that sum to this, so that the state is exact in any notation.
const UNIT: i64 = 1_000_000;

/// Where the stream over the shards stands; with the seed it determines everything that follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// One cursor per domain, in the loader's order.
    pub cursors: Vec<Cursor>,
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
    /// Documents that a sequence's end cut, by lane.
    pub lanes: Vec<Option<OpenDocument>>,
    /// Lane whose turn it is.
    pub turn: usize,
}

/// A document of which a part was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenDocument {
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

    /// The next document of the current epoch's permutation; of the next epoch's if it is exhausted.
    fn begin(&self, cursor: &mut Cursor, seed: u64, index: u64) -> u64 {
        let count = self.shard.documents() as u64;
        if cursor.next == count {
            cursor.next = 0;
            cursor.epoch += 1;
        }
        cursor.next += 1;
        order(count, seed, index, cursor.epoch).at(cursor.next - 1)
    }
}

/// The order in which the `documents` of domain `index` are begun in an epoch.
pub fn order(documents: u64, seed: u64, index: u64, epoch: u64) -> Permutation {
    Permutation::new(documents, seed, &[1, index, epoch])
}

/// The sampler. Cheap to clone: the shards are shared.
#[derive(Clone)]
pub struct Loader {
    domains: Arc<Vec<Domain>>,
    needles: Option<Arc<needle::Sentences>>,
    seed: u64,
    /// Rows of each domain that may be taken.
    most_rows: Vec<u64>,
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
        let lanes = vec![None; LANES];
        let cursors = vec![Cursor { epoch: 0, next: 0, credit: 0, rows: 0, lanes, turn: 0 }; domains.len()];
        let state = State { cursors, needle_credit: 0, needles: 0 };
        let most_rows = vec![u64::MAX; domains.len()];
        let domains = Arc::new(domains);
        (!domains.is_empty()).then_some(Self { domains, needles: None, seed, most_rows, state })
    }

    /// The same sampler, which takes no domain more than `most` times; what it would have got goes to the others. If
    /// all are read up, it goes on as if there were no bound.
    pub fn with_max_epochs(mut self, most: Option<f64>) -> Self {
        if let Some(most) = most {
            self.most_rows = self.rows_per_pass().iter().map(|rows| (*rows as f64 * most) as u64).collect();
        }
        self
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
            && state.cursors.iter().zip(self.domains.iter()).all(|(cursor, domain)| {
                let documents = domain.shard.documents() as u64;
                let open = cursor.lanes.iter().flatten().all(|open| open.document < documents);
                cursor.next <= documents && cursor.turn < cursor.lanes.len() && open
            });
        if fits {
            self.state = state;
        }
        fits
    }

    /// The micro-batches of the next step: exactly `sequences * sequence` rows in all, documents in full until a
    /// sequence ends.
    pub fn next(&mut self, request: &Request) -> Vec<MicroBatch> {
        let rows = self.state.cursors.iter().map(|cursor| cursor.rows);
        let open: Vec<bool> = rows.zip(&self.most_rows).map(|(rows, most)| rows < *most).collect();
        let weights = match open.iter().all(|open| *open) {
            true => integer_weights(&request.weights),
            false => integer_weights(&capped(&request.weights, &open)),
        };
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

    /// Fills one sequence with stretches of documents.
    fn sequence(&mut self, length: usize, weights: &[i64], packer: &mut Packer) {
        let end = packer.rows() + length;
        let mut tokens = Vec::with_capacity(length + 1);
        while packer.rows() < end {
            let index = self.furthest_behind(weights);
            let (domain, cursor) = (&self.domains[index], &mut self.state.cursors[index]);
            let turn = cursor.turn;
            cursor.turn = (turn + 1) % cursor.lanes.len();
            let open = match cursor.lanes[turn].take() {
                Some(open) => open,
                None => OpenDocument { document: domain.begin(cursor, self.seed, index as u64), offset: 0 },
            };
            let (start, size) = domain.span(open.document);
            let left = size.saturating_sub(1 + open.offset);
            let rows = left.min((end - packer.rows()) as u64);
            if rows < left {
                cursor.lanes[turn] = Some(OpenDocument { offset: open.offset + rows, ..open });
            }
            if rows > 0 {
                let from = start + open.offset;
                tokens.clear();
                domain.shard.read(from..from + rows + 1, &mut tokens);
                packer.push(Some(index), open.document, open.offset, &tokens);
                cursor.rows += rows;
                cursor.credit -= rows as i64 * UNIT;
                for (cursor, weight) in self.state.cursors.iter_mut().zip(weights) {
                    cursor.credit += rows as i64 * weight;
                }
            }
        }
    }

    /// The domain with a weight that is owed most; of equals the first.
    fn furthest_behind(&self, weights: &[i64]) -> usize {
        let owed = self.state.cursors.iter().zip(weights).enumerate().filter(|(_, (_, weight))| **weight > 0);
        owed.max_by_key(|(i, (cursor, weight))| (cursor.credit + **weight, Reverse(*i))).map_or(0, |(i, _)| i)
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

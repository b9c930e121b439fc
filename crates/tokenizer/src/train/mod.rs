//! Training: exact byte-pair encoding, the same merges as Hugging Face's `BpeTrainer` (ties included), for any
//! number of threads.

mod learn;

use crate::bpe::{Merge, Scratch};
use crate::chat::TemplateKind;
use crate::format::byte_order;
use crate::hashing::FastMap;
use crate::{Error, SPECIAL_COUNT, Tokenizer, pieces, special_names};
use herd_run::{Context, SettingError};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// What a tokenizer is trained with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Size of the vocabulary: 256 bytes, the merges and 256 special tokens. Llama 3: 128,256.
    pub vocab_size: usize,
    /// A pair that occurs less often than this is not merged.
    pub min_frequency: u64,
    /// The chat template that goes with the tokenizer.
    pub chat_template: TemplateKind,
}

impl Default for Settings {
    fn default() -> Self {
        Self { vocab_size: 8192, min_frequency: 2, chat_template: TemplateKind::default() }
    }
}

/// The smallest vocabulary: every byte and the special tokens.
const SMALLEST: usize = 256 + SPECIAL_COUNT;

impl Settings {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), SettingError> {
        if self.vocab_size < SMALLEST {
            let problem = format!(
                "{} is too small; a byte-level vocabulary has 256 bytes and {SPECIAL_COUNT} special tokens, so at least {SMALLEST}",
                self.vocab_size
            );
            return Err(SettingError::new("vocab_size", problem));
        }
        if self.vocab_size > 1 << 24 {
            let problem = format!("{} is too large; at most {}", self.vocab_size, 1 << 24);
            return Err(SettingError::new("vocab_size", problem));
        }
        if self.min_frequency == 0 {
            return Err(SettingError::new("min_frequency", "0 makes no sense; choose 1 or more"));
        }
        Ok(())
    }
}

/// Learns a tokenizer from texts; the short form of [`Trainer`].
pub fn train<T: AsRef<str> + Sync>(texts: &[T], settings: &Settings) -> Result<Tokenizer, Error> {
    let mut trainer = Trainer::new(settings.clone())?;
    trainer.feed(texts);
    trainer.finish(&Context::quiet())
}

/// Collects how often each piece of text occurs, then learns the merges. Memory grows with the number of distinct
/// pieces, not with the length of the text.
pub struct Trainer {
    settings: Settings,
    counts: FastMap<Box<[u8]>, u64>,
}

impl Trainer {
    /// A trainer that has seen nothing.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.validate()?;
        Ok(Self { settings, counts: FastMap::default() })
    }

    /// Counts the pieces of some texts, in parallel. Call it batch by batch for a corpus larger than memory.
    pub fn feed<T: AsRef<str> + Sync>(&mut self, texts: &[T]) {
        let counts = texts
            .par_iter()
            .fold(FastMap::<Box<[u8]>, u64>::default, |mut counts, text| {
                for piece in pieces(text.as_ref()) {
                    match counts.get_mut(piece.as_bytes()) {
                        Some(count) => *count += 1,
                        None => {
                            counts.insert(piece.as_bytes().into(), 1);
                        }
                    }
                }
                counts
            })
            .reduce(FastMap::default, merge_counts);
        self.counts = merge_counts(std::mem::take(&mut self.counts), counts);
    }

    /// How many distinct pieces were counted.
    pub fn distinct_pieces(&self) -> usize {
        self.counts.len()
    }

    /// Learns the merges. The vocabulary is smaller than asked for if the text has no more pairs that occur
    /// `min_frequency` times.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the user asked to stop.
    pub fn finish(self, ctx: &Context) -> Result<Tokenizer, Error> {
        let mut bytes: Vec<u8> = byte_order().collect();
        let mut byte_ids = [0; 256];
        for (id, &byte) in bytes.iter().enumerate() {
            byte_ids[usize::from(byte)] = id as u32;
        }
        let wanted = self.settings.vocab_size - SMALLEST;
        let split = |piece: &[u8], ids: &mut Vec<u32>| {
            ids.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
        };
        let pairs = learn::learn(self.counts, split, 256, wanted, self.settings.min_frequency, ctx)?;

        let mut tokens: Vec<Vec<u8>> = bytes.drain(..).map(|byte| vec![byte]).collect();
        let mut merges = Vec::with_capacity(pairs.len());
        append(pairs, &mut tokens, &mut merges);
        let template = self.settings.chat_template.text().to_string();
        Tokenizer::llama3(tokens, |_| merges, special_names(), Some(template))
    }
}

impl Trainer {
    /// Adds merges to a vocabulary instead of beginning with bytes, as Llama 3 did with 28,000 tokens for languages other
    /// than English (MODEL-3): its tokens keep their ids, the new ones follow, then the 256 special ones.
    /// [`Settings::vocab_size`] counts all of them.
    ///
    /// # Errors
    /// A base that is not byte-level with Llama 3's split rule, or that fills the vocabulary already.
    pub fn extend(self, base: &Tokenizer, ctx: &Context) -> Result<Tokenizer, Error> {
        let base = base.llama3_merges().ok_or_else(|| {
            Error::Vocabulary(
                "only a byte-level vocabulary with Llama 3's split rule, its tokens before the special ones, can be extended"
                    .into(),
            )
        })?;
        let (mut tokens, mut merges) = (base.tokens, base.merges.ordered().to_vec());
        let Some(wanted) = self.settings.vocab_size.checked_sub(tokens.len() + SPECIAL_COUNT) else {
            let problem = format!(
                "{} is too small; the base has {} tokens and {SPECIAL_COUNT} special ones follow",
                self.settings.vocab_size,
                tokens.len()
            );
            return Err(SettingError::new("vocab_size", problem).into());
        };
        let mut scratch = Scratch::default();
        let split = |piece: &[u8], ids: &mut Vec<u32>| base.merges.encode(piece, &mut scratch, ids);
        let first = tokens.len() as u32;
        let pairs = learn::learn(self.counts, split, first, wanted, self.settings.min_frequency, ctx)?;
        append(pairs, &mut tokens, &mut merges);
        let template = self.settings.chat_template.text().to_string();
        Tokenizer::llama3(tokens, |_| merges, special_names(), Some(template))
    }
}

/// Appends what learned pairs make, after all tokens and merges that are there. A merge may make the text of a token
/// that is there, out of other parts: then it makes that token, and none is added.
fn append(pairs: Vec<(u32, u32)>, tokens: &mut Vec<Vec<u8>>, merges: &mut Vec<Merge>) {
    let known: FastMap<Vec<u8>, u32> = tokens.iter().cloned().zip(0..).collect();
    let (first, rank) = (tokens.len(), merges.iter().map(|merge| merge.rank + 1).max().unwrap_or(0));
    let mut learned: Vec<u32> = Vec::with_capacity(pairs.len());
    for (rank, (left, right)) in (rank..).zip(pairs) {
        let id = |token: u32| (token as usize).checked_sub(first).map_or(token, |at| learned[at]);
        let (left, right) = (id(left), id(right));
        let text = [tokens[left as usize].as_slice(), tokens[right as usize].as_slice()].concat();
        let result = known.get(&text).copied().unwrap_or(tokens.len() as u32);
        if result as usize == tokens.len() {
            tokens.push(text);
        }
        learned.push(result);
        merges.push(Merge { left, right, result, rank });
    }
}

fn merge_counts(a: FastMap<Box<[u8]>, u64>, b: FastMap<Box<[u8]>, u64>) -> FastMap<Box<[u8]>, u64> {
    let (mut into, from) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    for (piece, count) in from {
        *into.entry(piece).or_default() += count;
    }
    into
}

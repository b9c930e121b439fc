//! Training: exact byte-pair encoding, the same merges as Hugging Face's `BpeTrainer` (ties included), for any
//! number of threads.

mod counter;
mod counts;
mod learn;
mod runs;

use crate::bpe::{Merge, Scratch};
use crate::chat::TemplateKind;
use crate::format::byte_order;
use crate::hashing::FastMap;
use crate::{Error, SPECIAL_COUNT, Tokenizer, special_names};
use counter::{Counter, Limit};
use herd_run::{Context, SettingError};
use serde::{Deserialize, Serialize};
use std::path::Path;

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
    trainer.feed(texts)?;
    trainer.finish(&Context::quiet())
}

/// Collects how often each piece of text occurs, then learns the merges. Memory grows with the number of distinct
/// pieces, not with the length of the text.
pub struct Trainer {
    settings: Settings,
    counter: Counter,
}

/// Least memory of [`Trainer::bounded`], bytes.
pub const LEAST_MEMORY: u64 = 16 << 20;

impl Trainer {
    /// A trainer that has seen nothing, and takes the memory that it needs.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.validate()?;
        Ok(Self { settings, counter: Counter::new(None) })
    }

    /// As [`new`](Self::new), with at most about `memory` bytes: counts that do not fit are written to a folder inside
    /// `scratch` and merged from there. The result is the same, bit for bit.
    ///
    /// # Errors
    /// Less memory than [`LEAST_MEMORY`].
    pub fn bounded(settings: Settings, memory: u64, scratch: &Path) -> Result<Self, Error> {
        settings.validate()?;
        if memory < LEAST_MEMORY {
            let problem = format!("{memory} bytes are too little; allow at least {LEAST_MEMORY}");
            return Err(SettingError::new("memory", problem).into());
        }
        Ok(Self { settings, counter: Counter::new(Some(Limit::of(memory, scratch))) })
    }

    /// Counts the pieces of some texts, in parallel. Call it batch by batch for a corpus larger than memory.
    ///
    /// # Errors
    /// Counts cannot be written to the folder for them.
    pub fn feed<T: AsRef<str> + Sync>(&mut self, texts: &[T]) -> Result<(), Error> {
        self.counter.count(texts)
    }

    /// The same of the lines of a text, each a text by itself, as Hugging Face's trainer reads files.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn feed_lines(&mut self, text: &str) -> Result<(), Error> {
        self.counter.count_lines(text)
    }

    /// How many distinct pieces were counted. Merges what was written to disk, so that it is best called once, at the end.
    ///
    /// # Errors
    /// As [`feed`](Self::feed).
    pub fn distinct_pieces(&self) -> Result<usize, Error> {
        self.counter.distinct()
    }

    /// How often counts were written to disk.
    pub fn spills(&self) -> usize {
        self.counter.spills()
    }

    /// Learns the merges. The vocabulary is smaller than asked for if the text has no more pairs that occur
    /// `min_frequency` times; a line of progress says so.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the user asked to stop; [`Error::Setting`] if the distinct pieces do not fit into the
    /// memory allowed, before anything is learned.
    pub fn finish(self, ctx: &Context) -> Result<Tokenizer, Error> {
        let mut bytes: Vec<u8> = byte_order().collect();
        let mut byte_ids = [0; 256];
        for (id, &byte) in bytes.iter().enumerate() {
            byte_ids[usize::from(byte)] = id as u32;
        }
        let wanted = self.settings.vocab_size - SMALLEST;
        let words = self.counter.words(|piece, ids| {
            ids.extend(piece.iter().map(|&byte| byte_ids[usize::from(byte)]));
        })?;
        let pairs = learn::learn(words, 256, wanted, self.settings.min_frequency, ctx)?;

        let mut tokens: Vec<Vec<u8>> = bytes.drain(..).map(|byte| vec![byte]).collect();
        let mut merges = Vec::with_capacity(pairs.len());
        append(pairs, &mut tokens, &mut merges);
        made(tokens, merges, &self.settings, ctx)
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
        let words = self.counter.words(|piece, ids| base.merges.encode(piece, &mut scratch, ids))?;
        let first = tokens.len() as u32;
        let pairs = learn::learn(words, first, wanted, self.settings.min_frequency, ctx)?;
        append(pairs, &mut tokens, &mut merges);
        made(tokens, merges, &self.settings, ctx)
    }
}

/// The tokenizer of some tokens and merges, which tells if the text had too few of them.
fn made(
    tokens: Vec<Vec<u8>>,
    merges: Vec<Merge>,
    settings: &Settings,
    ctx: &Context,
) -> Result<Tokenizer, Error> {
    let there = tokens.len() + SPECIAL_COUNT;
    if there < settings.vocab_size {
        ctx.progress.line(format!(
            "tokenizer: {there} tokens instead of {}: the text has too few pairs that occur {} times; give more text",
            settings.vocab_size, settings.min_frequency
        ));
    }
    let template = settings.chat_template.text().to_string();
    Tokenizer::llama3(tokens, |_| merges, special_names(), Some(template))
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

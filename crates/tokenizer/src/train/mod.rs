//! Training: exact byte-pair encoding, the same merges as Hugging Face's `BpeTrainer` (ties included), for any
//! number of threads.

mod learn;

use crate::bpe::Merge;
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
        let pairs = learn::learn(self.counts, &byte_ids, wanted, self.settings.min_frequency, ctx)?;

        let mut tokens: Vec<Vec<u8>> = bytes.drain(..).map(|byte| vec![byte]).collect();
        let mut merges = Vec::with_capacity(pairs.len());
        for (rank, (left, right)) in pairs.into_iter().enumerate() {
            let result = tokens.len() as u32;
            tokens.push([tokens[left as usize].as_slice(), tokens[right as usize].as_slice()].concat());
            merges.push(Merge { left, right, result, rank: rank as u32 });
        }
        let template = self.settings.chat_template.text().to_string();
        Tokenizer::llama3(tokens, |_| merges, special_names(), Some(template))
    }
}

fn merge_counts(a: FastMap<Box<[u8]>, u64>, b: FastMap<Box<[u8]>, u64>) -> FastMap<Box<[u8]>, u64> {
    let (mut into, from) = if a.len() >= b.len() { (a, b) } else { (b, a) };
    for (piece, count) in from {
        *into.entry(piece).or_default() += count;
    }
    into
}

//! From documents to token shards (SPEC DATA-8): one file of tokens per domain to train on, and one of documents
//! kept back.
//!
//! Which documents are kept back depends on their ids alone, so it is the same for any tokenizer, any order of
//! the documents and any number of threads.

use crate::batches;
use crate::documents::{DocumentsError, Domain};
use crate::texts::{Reader, Text, Texts};
use herd_run::atomic::{self, FileError};
use herd_run::{Context, Interrupted, SettingError, hash};
use herd_tokenizer::Tokenizer;
use herd_tokenizer::shard::{DomainShards, FileStats, ShardIndex, TokenShardWriter};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Text that is tokenised at once, bytes; bounds the memory of the stage.
const BATCH_BYTES: usize = 16 << 20;

/// How documents become shards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Share of each domain that is kept back for evaluation, 0 to 0.5: of its documents, and at least as much of its
    /// text, so that a domain of few documents can be evaluated too.
    pub held_out: f64,
    /// How often documents are written for training, by domain and language; the first rule that fits counts. Documents
    /// kept back are written once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sampling: Vec<Sampling>,
}

/// Up- or down-sampling of some documents (SPEC DATA-8).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// The domain; absent: all.
    #[serde(default)]
    pub domain: Option<Domain>,
    /// The language; absent: all.
    #[serde(default)]
    pub language: Option<String>,
    /// Copies of a document on average: 0.3 keeps three of ten, 2.5 writes each twice and half of them once more.
    pub copies: f64,
}

impl Sampling {
    fn fits(&self, document: &Text) -> bool {
        self.domain.is_none_or(|domain| domain == document.domain)
            && self.language.as_ref().is_none_or(|language| language == document.language)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { held_out: 0.02, sampling: Vec::new() }
    }
}

impl Settings {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), SettingError> {
        if !(0.0..=0.5).contains(&self.held_out) {
            let problem = format!("{} is not a share of documents; choose 0 to 0.5", self.held_out);
            return Err(SettingError::new("held_out", problem));
        }
        for (n, rule) in self.sampling.iter().enumerate() {
            if !(0.0..=100.0).contains(&rule.copies) {
                let problem = format!("{} is no number of copies; choose 0 to 100", rule.copies);
                return Err(SettingError::new(format!("sampling.{n}.copies"), problem));
            }
        }
        Ok(())
    }
}

/// Why the stages `tokenizer` and `shards` fail.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The documents cannot be read.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// The tokenizer cannot be read, or a shard not be written.
    #[error(transparent)]
    Tokenizer(#[from] herd_tokenizer::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A setting whose value cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// There is nothing to tokenise.
    #[error("{}: no documents; look at rejects.parquet beside it, which names the rule that removed each", path.display())]
    Empty {
        /// The file of documents.
        path: PathBuf,
    },
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// What the stage made; `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Size of the vocabulary.
    pub vocab_size: usize,
    /// Tokens to train on and kept back, all domains.
    pub tokens: u64,
    /// Documents to train on and kept back, all domains.
    pub documents: u64,
    /// The domains that have documents, by name.
    pub domains: Vec<DomainSummary>,
}

/// What is in the shards of a domain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DomainSummary {
    /// Name of the domain.
    pub name: String,
    /// Documents to train on.
    pub documents: u64,
    /// Tokens to train on.
    pub tokens: u64,
    /// Documents kept back.
    pub held_out_documents: u64,
    /// Tokens kept back.
    pub held_out_tokens: u64,
    /// UTF-8 bytes of all texts.
    pub bytes: u64,
    /// Characters of all texts.
    pub characters: u64,
    /// Characters per token of text, begin and end of text not counted.
    pub characters_per_token: f64,
}

/// Tokenises `documents` (Parquet) with `tokenizer` (its folder or `tokenizer.json`) into the folder `out`, which
/// appears complete or not at all.
pub fn run(
    settings: &Settings,
    documents: &Path,
    tokenizer: &Path,
    out: &Path,
    ctx: &Context,
) -> Result<Summary, Error> {
    settings.validate()?;
    let file = if tokenizer.is_dir() { tokenizer.join("tokenizer.json") } else { tokenizer.to_path_buf() };
    let load = || Ok::<_, Error>((hash::of_file(&file)?, Tokenizer::load(&file)?));
    let (loaded, split) = rayon::join(load, || Split::plan(settings, documents));
    let ((tokenizer_hash, tokenizer), split) = (loaded?, split?);
    let summary = atomic::create_folder(out, |folder| {
        let mut shards = Shards::new(folder, &tokenizer);
        let task = ctx.progress.task("shards", Some(split.documents), "documents");
        // While a batch is tokenised, the next is read and the one before is written.
        let mut batches = Batches::open(documents)?;
        let (mut next, mut encoded) = (batches.next().transpose()?, None);
        while next.is_some() || encoded.is_some() {
            ctx.stop.check()?;
            let current = next.take();
            let (read, (tokens, written)) = rayon::join(
                || if current.is_some() { batches.next().transpose() } else { Ok(None) },
                || {
                    rayon::join(
                        || current.as_deref().map(|batch| encode(&tokenizer, batch)),
                        || encoded.take().map_or(Ok(0), |batch| write(&mut shards, &split, settings, batch)),
                    )
                },
            );
            next = read?;
            task.add(written?);
            encoded = current.zip(tokens);
        }
        let (index, summary) = shards.finish(tokenizer_hash)?;
        index.save(folder)?;
        atomic::write_json(&folder.join("summary.json"), &summary)?;
        Ok::<_, Error>(summary)
    })?;
    for domain in &summary.domains {
        ctx.progress.detail(format!(
            "{}: {} tokens to train on, {} kept back, {:.2} characters per token",
            domain.name, domain.tokens, domain.held_out_tokens, domain.characters_per_token
        ));
    }
    Ok(summary)
}

/// A document's tokens.
struct Encoded {
    /// `<|begin_of_text|>`, the text, `<|end_of_text|>`.
    tokens: Vec<u32>,
    characters: u64,
}

/// The tokens of the documents of a batch.
fn encode(tokenizer: &Tokenizer, batch: &[Texts]) -> Vec<Encoded> {
    let documents: Vec<Text> = batch.iter().flat_map(Texts::iter).collect();
    let encode = |document: &Text| {
        let mut tokens = Vec::with_capacity(document.text.len() / 3 + 2);
        tokens.push(tokenizer.specials().bos);
        tokenizer.encode_into(document.text, &mut tokens);
        tokens.push(tokenizer.specials().end_of_text);
        Encoded { tokens, characters: document.text.chars().count() as u64 }
    };
    documents.par_iter().map(encode).collect()
}

/// Writes a batch; how many documents it has.
fn write(
    shards: &mut Shards,
    split: &Split,
    settings: &Settings,
    (batch, encoded): (Vec<Texts>, Vec<Encoded>),
) -> Result<u64, Error> {
    for (document, encoded) in batch.iter().flat_map(Texts::iter).zip(&encoded) {
        if split.is_held_out(&document) {
            shards.push(&document, encoded, true)?;
            continue;
        }
        for _ in 0..copies(&settings.sampling, &document) {
            shards.push(&document, encoded, false)?;
        }
    }
    Ok(encoded.len() as u64)
}

/// Documents in batches of bounded size, in the order of the file.
pub(crate) struct Batches(Reader);

impl Batches {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self(Reader::open(path)?))
    }
}

impl Iterator for Batches {
    type Item = Result<Vec<Texts>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(texts) = self.0.next()
        {
            match texts {
                Ok(texts) => {
                    bytes += texts.bytes();
                    batch.push(texts);
                }
                Err(error) => return Some(Err(error.into())),
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    }
}

/// Which documents are kept back.
struct Split {
    documents: u64,
    /// Per domain: documents whose key is below this are kept back.
    limits: BTreeMap<Domain, u64>,
}

impl Split {
    fn plan(settings: &Settings, path: &Path) -> Result<Self, Error> {
        // Row groups by all threads: texts are decompressed only for their lengths.
        let keys = |(file, range): &(PathBuf, Range<u64>)| {
            let mut keys = Vec::new();
            for texts in Reader::range(file, range.clone())? {
                keys.extend(texts?.iter().map(|text| (text.domain, (key(text.id), text.text.len() as u64))));
            }
            Ok(keys)
        };
        let groups = batches::Batches::ranges(path)?
            .par_iter()
            .map(keys)
            .collect::<Result<Vec<_>, DocumentsError>>()?;
        let mut domains: BTreeMap<Domain, Vec<(u64, u64)>> = BTreeMap::new();
        for (domain, entry) in groups.into_iter().flatten() {
            domains.entry(domain).or_default().push(entry);
        }
        let documents = domains.values().map(|keys| keys.len() as u64).sum();
        if documents == 0 {
            return Err(Error::Empty { path: path.to_path_buf() });
        }
        let limits =
            domains.into_iter().map(|(domain, keys)| (domain, limit(settings.held_out, keys))).collect();
        Ok(Self { documents, limits })
    }

    fn is_held_out(&self, document: &Text) -> bool {
        self.limits.get(&document.domain).is_some_and(|&limit| key(document.id) < limit)
    }
}

/// The key below which documents of a domain are kept back, from the keys and text lengths of all of them. It is the
/// share itself, raised as far as the text kept back falls short of it, and never so far that nothing is left.
fn limit(share: f64, mut keys: Vec<(u64, u64)>) -> u64 {
    keys.sort_unstable();
    let wanted = share * keys.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>();
    let mut limit = (share * u64::MAX as f64) as u64;
    let mut kept = 0.0;
    for &(key, bytes) in &keys {
        if kept >= wanted {
            break;
        }
        limit = limit.max(key.saturating_add(1));
        kept += bytes as f64;
    }
    limit.min(keys.last().map_or(0, |(highest, _)| *highest))
}

/// How often a document is written; which documents have the fraction of a copy depends on their ids alone.
fn copies(rules: &[Sampling], document: &Text) -> u64 {
    let Some(rule) = rules.iter().find(|rule| rule.fits(document)) else { return 1 };
    let more = (number("copies", document.id) as f64 / u64::MAX as f64) < rule.copies.fract();
    rule.copies as u64 + more as u64
}

/// A uniform number that decides who is kept back.
fn key(id: &str) -> u64 {
    number("held out", id)
}

/// A uniform number from a document's id, for a purpose.
fn number(purpose: &str, id: &str) -> u64 {
    let digits = hash::of_bytes(format!("{purpose}\n{id}").as_bytes());
    u64::from_str_radix(&digits[..16], 16).unwrap_or(0)
}

/// The open shards of all domains.
struct Shards<'a> {
    folder: &'a Path,
    tokenizer: &'a Tokenizer,
    domains: BTreeMap<Domain, DomainWriter>,
}

struct DomainWriter {
    train: TokenShardWriter,
    held_out: TokenShardWriter,
    characters: u64,
}

impl<'a> Shards<'a> {
    fn new(folder: &'a Path, tokenizer: &'a Tokenizer) -> Self {
        Self { folder, tokenizer, domains: BTreeMap::new() }
    }

    fn push(&mut self, document: &Text, encoded: &Encoded, held_out: bool) -> Result<(), Error> {
        let name = document.domain.name();
        let create = |part: &str| {
            TokenShardWriter::create(
                self.folder.join(format!("{name}.{part}.tok")),
                self.tokenizer.vocab_size(),
            )
        };
        let domain = match self.domains.entry(document.domain) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(DomainWriter {
                train: create("train")?,
                held_out: create("held_out")?,
                characters: 0,
            }),
        };
        domain.characters += encoded.characters;
        let shard = if held_out { &mut domain.held_out } else { &mut domain.train };
        Ok(shard.push(&encoded.tokens, document.text.len() as u64)?)
    }

    fn finish(self, tokenizer_hash: String) -> Result<(ShardIndex, Summary), Error> {
        let vocab_size = self.tokenizer.vocab_size();
        let mut index = ShardIndex { vocab_size, tokenizer_hash, domains: Vec::new() };
        let mut summary = Summary { vocab_size, tokens: 0, documents: 0, domains: Vec::new() };
        for (domain, writer) in self.domains {
            let (train, held_out) = (writer.train.finish()?, writer.held_out.finish()?);
            let described = describe(domain.name(), &train, &held_out, writer.characters);
            summary.tokens += described.tokens + described.held_out_tokens;
            summary.documents += described.documents + described.held_out_documents;
            summary.domains.push(described);
            index.domains.push(DomainShards { name: domain.name().to_string(), train, held_out });
        }
        index.domains.sort_by(|a, b| a.name.cmp(&b.name));
        summary.domains.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((index, summary))
    }
}

fn describe(name: &str, train: &FileStats, held_out: &FileStats, characters: u64) -> DomainSummary {
    let documents = train.documents + held_out.documents;
    let text_tokens = train.tokens + held_out.tokens - 2 * documents;
    DomainSummary {
        name: name.to_string(),
        documents: train.documents,
        tokens: train.tokens,
        held_out_documents: held_out.documents,
        held_out_tokens: held_out.tokens,
        bytes: train.bytes + held_out.bytes,
        characters,
        characters_per_token: characters as f64 / text_tokens.max(1) as f64,
    }
}

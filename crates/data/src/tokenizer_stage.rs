//! The stage that trains the tokenizer on the clean documents. It stands here because documents are Parquet,
//! which the tokenizer itself knows nothing of.

use crate::shards::{Batches, Error};
use crate::texts::Texts;
use herd_run::Context;
use herd_run::atomic::{self, FileError};
use herd_tokenizer::train::{LEAST_MEMORY, Settings, Trainer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What the stage made; `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Size of the vocabulary, special tokens included; smaller than asked for if the text is too small.
    pub vocab_size: usize,
    /// Documents it was trained on.
    pub documents: u64,
    /// UTF-8 bytes of their texts.
    pub bytes: u64,
    /// Distinct pieces that the split rule made of them.
    pub distinct_pieces: u64,
    /// Characters per token on the first documents, at most 16 MB of them.
    pub characters_per_token: f64,
}

/// Trains a tokenizer on `documents` (Parquet) with about `memory` bytes and writes its files into the folder `out`,
/// which appears complete or not at all. Counts that do not fit are written to a folder beside `out` for the time; the
/// result does not depend on `memory`. Less than [`LEAST_MEMORY`] counts as that much.
///
/// # Errors
/// No documents, a file that cannot be read or written, distinct pieces that do not fit into `memory`, an interrupt.
pub fn run(
    settings: &Settings,
    documents: &Path,
    out: &Path,
    memory: u64,
    ctx: &Context,
) -> Result<Summary, Error> {
    let scratch = Scratch::beside(out)?;
    let mut trainer = Trainer::bounded(settings.clone(), memory.max(LEAST_MEMORY), &scratch.0)?;
    let mut first: Vec<Texts> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    let task = ctx.progress.task("count pieces", None, "documents");
    for batch in Batches::open(documents)? {
        ctx.stop.check()?;
        let batch = batch?;
        let texts = texts_of(&batch);
        trainer.feed(&texts)?;
        count += texts.len() as u64;
        bytes += texts.iter().map(|t| t.len() as u64).sum::<u64>();
        task.add(texts.len() as u64);
        if first.is_empty() {
            first = batch;
        }
    }
    drop(task);
    if count == 0 {
        return Err(Error::Empty { path: documents.to_path_buf() });
    }
    let distinct_pieces = trainer.distinct_pieces()? as u64;
    let tokenizer = trainer.finish(ctx)?;

    let first = texts_of(&first);
    let tokens: u64 = first.par_iter().map(|text| tokenizer.encode(text).len() as u64).sum();
    let characters: u64 = first.par_iter().map(|text| text.chars().count() as u64).sum();
    let summary = Summary {
        vocab_size: tokenizer.vocab_size(),
        documents: count,
        bytes,
        distinct_pieces,
        characters_per_token: characters as f64 / tokens.max(1) as f64,
    };
    atomic::create_folder(out, |folder| {
        tokenizer.save(folder)?;
        atomic::write_json(&folder.join("summary.json"), &summary)?;
        Ok::<_, Error>(())
    })?;
    Ok(summary)
}

/// A folder beside the output for counts that do not fit into memory; what a killed process left in it goes.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(out: &Path) -> Result<Self, Error> {
        let folder = out.with_added_extension("scratch");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(FileError::at("clear", &folder))?;
        }
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn texts_of(batch: &[Texts]) -> Vec<&str> {
    batch.iter().flat_map(Texts::iter).map(|document| document.text).collect()
}

//! The stage: a crawl in, clean documents out. It runs as a few maps over parts (one per archive) and reductions
//! between them. A map's output is a file that appears complete or not at all, so a killed run continues with the parts
//! that are missing; reductions are cheap and made again.
//!
//! ```text
//! archives -> pages-N.parquet        map: read, decode, extract, block lists, language
//!          -> fates                  reduce: newest capture of a URL, near-duplicate clusters
//!          -> frequent lines         reduce: lines counted per language and bucket
//!          -> clean-N.parquet        map: drop lines; length, repetition, dirty words, personal data
//!          -> distributions          reduce: tokens per language
//!          -> documents.parquet      divergence, domain; rejects.parquet, funnel.json, summary.json
//! ```

mod clean;
mod duplicates;
mod finish;
mod pages;
mod parts;

use crate::archive::Damage;
use crate::contamination;
use crate::error::Error;
use crate::filters::{BlockList, Classifiers, DecontaminationFilter, DirtyWordShare};
use crate::funnel::Funnel;
use crate::settings::Settings;
use herd_run::atomic::{self, FileError};
use herd_run::{Context, hash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Steps in the order of the funnel.
const STEPS: [&str; 16] = [
    "fetch",
    "decode",
    "extract",
    "block lists",
    "language",
    "url",
    "near duplicates",
    "lines",
    "length",
    "repetition",
    "dirty words",
    "personal data",
    "classifiers",
    "decontamination",
    "divergence",
    "domain",
];

/// Documents and bytes of a part of the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amount {
    /// Documents.
    pub documents: u64,
    /// Bytes of text.
    pub bytes: u64,
}

/// What the stage did: `summary.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Archives read.
    pub archives: u64,
    /// Responses in them.
    pub responses: u64,
    /// Places that could not be read.
    pub damage: Vec<Damage>,
    /// Documents written.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// By domain of the mix.
    pub domains: BTreeMap<String, Amount>,
    /// By language.
    pub languages: BTreeMap<String, Amount>,
    /// Lines that were dropped everywhere.
    pub frequent_lines: u64,
    /// Clusters of near-duplicate documents.
    pub clusters: u64,
    /// Every step's account.
    pub funnel: Funnel,
}

/// What all workers share.
struct Tools<'a> {
    settings: &'a Settings,
    block_list: BlockList,
    dirty_words: DirtyWordShare,
    classifiers: Option<Classifiers>,
    benchmarks: Option<DecontaminationFilter>,
}

/// Curates a crawl: reads the archives of `settings.input`, writes `documents.parquet`, `rejects.parquet`, `funnel.json` and
/// `summary.json` into `out`. The result does not depend on the number of threads.
///
/// # Errors
///
/// [`Error::Setting`] for a glob that matches nothing, [`Error::EmptyCrawl`] for archives without responses,
/// [`Error::NothingLeft`] if every document is dropped; damaged places are no error but listed in the summary.
pub fn run(settings: &Settings, out: &Path, ctx: &Context) -> Result<Summary, Error> {
    settings.validate()?;
    let archives = settings.archives()?;
    let tools = Tools {
        settings,
        block_list: BlockList::load(&settings.blocked_domains)?,
        dirty_words: DirtyWordShare::new(&settings.dirty_words)?,
        classifiers: Classifiers::load(&settings.classifiers)?,
        benchmarks: DecontaminationFilter::load(&settings.decontamination)?,
    };
    let work = out.join("work");
    prepare(&work, settings, &archives)?;

    let page_parts = pages::map(&archives, &work, &tools, ctx)?;
    let fates = duplicates::reduce(&page_parts, settings, ctx)?;
    let clean_parts = clean::map(&page_parts, &fates, &work, &tools, ctx)?;
    let summary = finish::write(&page_parts, &clean_parts, &fates, out, &tools, ctx)?;
    if let Some(filter) = &tools.benchmarks {
        contamination::write_report(&filter.benchmarks, out, ctx)?;
    }

    for place in &summary.damage {
        let Damage { file, offset, problem } = place;
        ctx.progress.line(format!("{file}: damaged at byte {offset}: {problem}; the rest was read"));
    }
    std::fs::remove_dir_all(&work).map_err(FileError::at("clear", &work))?;
    Ok(summary)
}

/// Makes the folder of unfinished work, empty if what is in it belongs to other settings or archives.
fn prepare(work: &Path, settings: &Settings, archives: &[PathBuf]) -> Result<(), Error> {
    let mut key = serde_json::to_string(settings).unwrap_or_default();
    for archive in archives {
        let length = std::fs::metadata(archive).map_err(FileError::at("read", archive))?.len();
        key.push_str(&format!("\n{} {length}", archive.display()));
    }
    let key = hash::of_bytes(key.as_bytes());
    let marker = work.join("key");
    let same = std::fs::read_to_string(&marker).is_ok_and(|old| old == key);
    if !same {
        if work.exists() {
            std::fs::remove_dir_all(work).map_err(FileError::at("clear", work))?;
        }
        atomic::write(&marker, key)?;
    }
    Ok(())
}

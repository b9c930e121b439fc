//! Step `corpus`: how often each token occurs among the documents of a language.

use super::parts::Account;
use super::plan::file_name;
use super::{Job, Step};
use crate::error::Error;
use crate::exchange::record;
use crate::filters::Distribution;
use crate::hash;
use std::collections::BTreeMap;

record! {
    /// Tokens of a bucket of a language.
    Tokens {
        /// Hash of both.
        key: u64,
        language: String,
        bucket: u32,
        count: u64,
    } absorb(this, later) {
        if (this.key, &this.language, this.bucket) == (later.key, &later.language, later.bucket) {
            this.count += later.count;
            return true;
        }
        false
    }
}

/// Writes the tokens of a split.
pub fn write(job: &Job, k: usize, languages: &BTreeMap<String, Distribution>) -> Result<(), Error> {
    let mut out = job.writer(0.2)?;
    for (language, distribution) in languages {
        let seed = hash::of_bytes(language.as_bytes());
        for (bucket, count) in distribution.counts() {
            let key = hash::of_sequence(&[seed, u64::from(bucket)]);
            out.push(Tokens { key, language: language.clone(), bucket, count })?;
        }
    }
    Ok(out.finish(&file_name(Step::Clean, k, "tokens.parquet"))?)
}

/// Sums the tokens of a part of all buckets.
pub fn reduce(job: &Job, k: usize) -> Result<Account, Error> {
    let mut rows = job.read::<Tokens>(&[(Step::Clean, "tokens.parquet")], job.part(k))?;
    let mut out = job.writer(0.5)?;
    while let Some(first) = rows.next_row()? {
        let key = first.key;
        out.push(first)?;
        while let Some(row) = rows.next_of(key)? {
            out.push(row)?;
        }
    }
    out.finish(&file_name(Step::Corpus, k, "tokens.parquet"))?;
    Ok(Account::default())
}

/// The distributions of all languages.
pub fn load(job: &Job) -> Result<BTreeMap<String, Distribution>, Error> {
    let mut rows = job.read::<Tokens>(&[(Step::Corpus, "tokens.parquet")], 0..=u64::MAX)?;
    let mut languages: BTreeMap<String, Distribution> = BTreeMap::new();
    while let Some(first) = rows.next_row()? {
        let key = first.key;
        let mut next = Some(first);
        while let Some(row) = next {
            languages.entry(row.language).or_default().add_count(row.bucket, row.count);
            next = rows.next_of(key)?;
        }
    }
    Ok(languages)
}

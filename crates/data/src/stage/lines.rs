//! Steps `lines` and `frequent`: lines are counted exactly, in buckets of documents of a language, by merging sorted files;
//! a task of the next step is told those frequent lines that its own documents have.

use super::clusters::Fates;
use super::parts::{Account, number};
use super::plan::file_name;
use super::{Job, Step};
use crate::documents::Document;
use crate::error::Error;
use crate::exchange::{record, split_range};
use crate::{hash, lines};
use rayon::prelude::*;
use std::collections::BTreeMap;

record! {
    /// How many documents of a split have a line.
    Line {
        /// The line's hash, which is that of its language and bucket too.
        line: u64,
        split: u32,
        documents: u32,
    } absorb(this, later) {
        if (this.line, this.split) == (later.line, later.split) {
            this.documents += later.documents;
            return true;
        }
        false
    }
}

record! {
    /// A line that goes, for a split that has it.
    Frequent by document {
        /// The first number of the split's documents.
        split: u64,
        line: u64,
    }
}

/// How documents are put into buckets: as many for each language as it needs.
pub struct Buckets(BTreeMap<String, u64>);

impl Buckets {
    /// From the documents of each language that have no newer capture.
    pub fn load(job: &Job) -> Result<Self, Error> {
        let mut buckets = BTreeMap::new();
        for k in 0..job.plan.splits.len() {
            for (language, amount) in job.account(Step::Signatures, k)?.languages {
                *buckets.entry(language).or_insert(0) += amount.documents;
            }
        }
        let size = job.settings.lines.bucket_documents;
        buckets.values_mut().for_each(|documents| *documents = documents.div_ceil(size).max(1));
        Ok(Self(buckets))
    }

    /// The bucket of a document.
    pub fn of(&self, document: &Document) -> u64 {
        let buckets = self.0.get(&document.language).copied().unwrap_or(1);
        hash::of_bytes(document.id.as_bytes()) % buckets
    }
}

/// Counts the lines of the pages of a split that stay.
pub fn map(job: &Job, k: usize) -> Result<Account, Error> {
    let fates = Fates::of_split(job, k)?;
    let buckets = Buckets::load(job)?;
    let mut out = job.writer(0.6)?;
    job.pages(k).batches(|row, batch| {
        job.ctx.stop.check()?;
        let staying: Vec<Document> =
            (number(k, row)..).zip(batch).filter(|(n, _)| fates.stays(*n)).map(|(_, d)| d).collect();
        let keys: Vec<Vec<u64>> =
            staying.par_iter().map(|d| lines::keys(&d.text, &d.language, buckets.of(d))).collect();
        for line in keys.into_iter().flatten() {
            out.push(Line { line, split: k as u32, documents: 1 })?;
        }
        Ok(())
    })?;
    out.finish(&file_name(Step::Lines, k, "lines.parquet"))?;
    Ok(Account::default())
}

/// Finds the lines of a part that occur too often.
pub fn reduce(job: &Job, k: usize) -> Result<Account, Error> {
    let most = u64::from(job.settings.lines.max_occurrences);
    let mut rows = job.read::<Line>(&[(Step::Lines, "lines.parquet")], job.part(k))?;
    let mut out = job.writer(0.5)?;
    let mut account = Account::default();
    let mut splits = Vec::new();
    while let Some(first) = rows.next_row()? {
        let line = first.line;
        let mut documents = u64::from(first.documents);
        splits.clear();
        splits.push(first.split);
        while let Some(row) = rows.next_of(line)? {
            documents += u64::from(row.documents);
            splits.push(row.split);
        }
        if documents > most {
            account.frequent_lines += 1;
            for split in &splits {
                out.push(Frequent { split: number(*split as usize, 0), line })?;
            }
        }
    }
    out.finish(&file_name(Step::Frequent, k, "frequent.parquet"))?;
    Ok(account)
}

/// The frequent lines of a split, sorted.
pub fn frequent(job: &Job, k: usize) -> Result<Vec<u64>, Error> {
    let mut rows = job.read::<Frequent>(&[(Step::Frequent, "frequent.parquet")], split_range(k))?;
    let mut lines = Vec::new();
    if let Some(first) = rows.next_row()? {
        lines.push(first.line);
        while let Some(row) = rows.next_of(first.split)? {
            lines.push(row.line);
        }
    }
    Ok(lines)
}

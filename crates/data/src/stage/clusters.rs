//! Steps `clusters` to `representatives`: of each cluster of near-duplicates the best document stays.

use super::parts::{Account, number};
use super::plan::file_name;
use super::{Job, Step, captures, stars};
use crate::documents::Document;
use crate::error::Error;
use crate::exchange::{record, split_range};
use crate::filters::Reason;
use crate::hash;
use std::collections::HashMap;

/// What a likeness or a score of 1 is in files: whole numbers have an order.
const ONE: f32 = 1e6;

record! {
    /// How much a document is like another.
    Likeness by document {
        /// The document.
        document: u64,
        other: u64,
        /// Jaccard similarity in millionths.
        likeness: u32,
    }
}

impl Likeness {
    /// Of `document`, which is like `other` by a share.
    pub fn new(document: u64, other: u64, share: f32) -> Self {
        Self { document, other, likeness: (share * ONE).round() as u32 }
    }
}

record! {
    /// A document in a cluster.
    Member by document {
        /// The document.
        document: u64,
        /// The smallest document of the cluster.
        root: u64,
    }
}

record! {
    /// What decides which document of a cluster stays: the least in the order of the fields.
    Standing {
        /// Hash of the cluster's smallest document.
        key: u64,
        /// Score of the classifier that judges quality, in millionths, from the largest number down; then the length.
        quality: u32,
        length: u64,
        /// Digits of the date, from the largest number down.
        age: u64,
        document: u64,
        likeness: u32,
        id: String,
        url: String,
    }
}

record! {
    /// What became of a document in a cluster.
    Fate by document {
        /// The document.
        document: u64,
        /// Its greatest similarity to another of the cluster, in millionths.
        likeness: u32,
        /// Documents in the cluster, if it stays; 0 if it goes.
        size: u32,
        /// Hash of the URL of the one that stays, by which the cluster is named.
        cluster: String,
        url: String,
    }
}

/// Finds the cluster of each document of a part that is in one.
pub fn find(job: &Job, k: usize) -> Result<Account, Error> {
    let mut rows = stars::last_edges(job, k)?;
    let mut out = job.writer(0.5)?;
    while let Some(edge) = rows.next_row()? {
        out.push(Member { document: edge.from, root: edge.from.min(edge.to) })?;
    }
    out.finish(&file_name(Step::Clusters, k, "members.parquet"))?;
    Ok(Account::default())
}

/// Looks up what the documents of a split that are in a cluster are worth.
pub fn members(job: &Job, k: usize) -> Result<Account, Error> {
    let mut rows = job.read::<Member>(&[(Step::Clusters, "members.parquet")], split_range(k))?;
    let mut out = job.writer(0.4)?;
    let mut next = rows.next_row()?;
    if next.is_some() {
        let likeness = likeness(job, k)?;
        let quality = &job.settings.near_duplicates.quality;
        job.pages(k).batches(|row, batch| {
            job.ctx.stop.check()?;
            for (n, document) in (number(k, row)..).zip(batch) {
                let Some(member) = next.take_if(|member| member.document == n) else { continue };
                next = rows.next_row()?;
                let score = match quality {
                    Some(name) => score(job, name, &document)?,
                    None => 0.0,
                };
                out.push(Standing {
                    key: hash::mix(member.root),
                    quality: u32::MAX - (score * ONE) as u32,
                    length: u64::MAX - document.text.len() as u64,
                    age: u64::MAX - digits(&document.date),
                    document: n,
                    likeness: likeness.get(&n).copied().unwrap_or(0),
                    id: document.id,
                    url: document.url,
                })?;
            }
            Ok(())
        })?;
    }
    out.finish(&file_name(Step::Members, k, "standings.parquet"))?;
    Ok(Account::default())
}

/// The greatest similarity of each document of a split to another.
fn likeness(job: &Job, k: usize) -> Result<HashMap<u64, u32>, Error> {
    let from = [(Step::Candidates, "likeness.parquet"), (Step::Similar, "likeness.parquet")];
    let mut rows = job.read::<Likeness>(&from, split_range(k))?;
    let mut greatest = HashMap::new();
    while let Some(first) = rows.next_row()? {
        let document = first.document;
        let mut most = first.likeness;
        while let Some(row) = rows.next_of(document)? {
            most = most.max(row.likeness);
        }
        greatest.insert(document, most);
    }
    Ok(greatest)
}

/// What the classifier of that name says of a document; 0 if it does not know its language.
fn score(job: &Job, name: &str, document: &Document) -> Result<f32, Error> {
    let classifiers = job.tools()?.classifiers.as_ref();
    Ok(classifiers.and_then(|all| all.score(name, document)).unwrap_or(0.0))
}

/// The digits of a date, most significant first: 14 of them, so that a day and a second compare.
fn digits(date: &str) -> u64 {
    let digits = date.bytes().filter(u8::is_ascii_digit).map(|b| u64::from(b - b'0'));
    digits.chain(std::iter::repeat(0)).take(14).fold(0, |number, digit| number * 10 + digit)
}

/// Decides who stays in the clusters of a part.
pub fn representatives(job: &Job, k: usize) -> Result<Account, Error> {
    let mut rows = job.read::<Standing>(&[(Step::Members, "standings.parquet")], job.part(k))?;
    let mut out = job.writer(0.4)?;
    let mut account = Account::default();
    while let Some(best) = rows.next_row()? {
        let mut size = 1;
        while let Some(other) = rows.next_of(best.key)? {
            size += 1;
            out.push(Fate {
                document: other.document,
                likeness: other.likeness,
                size: 0,
                cluster: best.id.clone(),
                url: best.url.clone(),
            })?;
        }
        account.clusters += 1;
        let Standing { document, likeness, id, url, .. } = best;
        out.push(Fate { document, likeness, size, cluster: id, url })?;
    }
    out.finish(&file_name(Step::Representatives, k, "fates.parquet"))?;
    Ok(account)
}

/// What is decided about the pages of a split.
pub struct Fates {
    older: HashMap<u64, captures::Older>,
    clustered: HashMap<u64, Fate>,
    similarity: f32,
}

impl Fates {
    pub fn of_split(job: &Job, k: usize) -> Result<Self, Error> {
        let mut fates = Self {
            older: HashMap::new(),
            clustered: HashMap::new(),
            similarity: job.settings.near_duplicates.similarity,
        };
        let mut rows = job.read::<captures::Older>(&[(Step::Captures, "older.parquet")], split_range(k))?;
        while let Some(row) = rows.next_row()? {
            fates.older.insert(row.document, row);
        }
        let mut rows = job.read::<Fate>(&[(Step::Representatives, "fates.parquet")], split_range(k))?;
        while let Some(row) = rows.next_row()? {
            fates.clustered.insert(row.document, row);
        }
        Ok(fates)
    }

    pub fn stays(&self, number: u64) -> bool {
        !self.older.contains_key(&number) && self.clustered.get(&number).is_none_or(|fate| fate.size > 0)
    }

    /// Why a page goes because of a newer capture.
    pub fn older(&self, number: u64) -> Option<Reason> {
        let older = self.older.get(&number)?;
        let excerpt = format!("captured {}; a capture of {} stays", older.date, older.stays);
        Some(Reason::new("older capture", 0.0, 0.0, &excerpt))
    }

    /// Why a page goes because of a better one, and the name of their cluster.
    pub fn near_duplicate(&self, number: u64) -> Option<(Reason, &str)> {
        let fate = self.clustered.get(&number).filter(|fate| fate.size == 0)?;
        let likeness = fate.likeness as f32 / ONE;
        let excerpt = format!("like {}", fate.url);
        Some((Reason::new("near duplicate", likeness, self.similarity, &excerpt), &fate.cluster))
    }

    /// The cluster of a page that stays, and its size.
    pub fn cluster(&self, number: u64) -> Option<(&str, u32)> {
        self.clustered.get(&number).map(|fate| (fate.cluster.as_str(), fate.size))
    }
}

#[cfg(test)]
mod tests {
    use super::digits;

    #[test]
    fn dates_compare_whatever_their_length() {
        assert_eq!(digits("2026-02-01T10:20:30Z"), 20_260_201_102_030);
        assert!(digits("2026-02-01") < digits("2026-02-01T00:00:01.5Z"));
        assert!(digits("") < digits("1999"));
    }
}

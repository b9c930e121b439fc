//! Steps `signatures` to `similar`: pairs of documents that are alike, without any task that has all documents. A pair
//! that shares a MinHash band is compared exactly where one of the two lies; the text of the other travels there.

use super::clusters::Likeness;
use super::parts::{Account, number};
use super::plan::file_name;
use super::stars::Edge;
use super::{Job, Step, captures};
use crate::documents::Document;
use crate::error::Error;
use crate::exchange::{record, split_range};
use crate::hash;
use crate::near_duplicates::{FULL_COMPARISON, bands, jaccard, shingles};
use rayon::prelude::*;
use std::collections::BTreeSet;

record! {
    /// A band of a document's signature.
    Band {
        /// Hash of the band and its values.
        key: u64,
        document: u64,
        /// Hash of all shingles: documents that agree in it need no comparison.
        content: u64,
    }
}

record! {
    /// A pair to be compared.
    Pair by document {
        /// The document whose text is to be sent.
        sender: u64,
        receiver: u64,
    }
}

record! {
    /// A text to be compared with.
    Text by document {
        /// The document that it is compared with.
        receiver: u64,
        sender: u64,
        language: String,
        text: String,
    }
}

/// MinHash bands of the pages of a split that have no newer capture.
pub fn signatures(job: &Job, k: usize) -> Result<Account, Error> {
    let near = &job.settings.near_duplicates;
    let older = older(job, k)?;
    let mut account = Account::default();
    let mut out = job.writer(0.6)?;
    job.pages(k).batches(|row, batch| {
        job.ctx.stop.check()?;
        let staying: Vec<(u64, Document)> =
            (number(k, row)..).zip(batch).filter(|(n, _)| !older.contains(n)).collect();
        for (_, document) in &staying {
            account.languages.entry(document.language.clone()).or_default().add(document.text.len());
        }
        let signed: Vec<(u64, u64, Vec<u64>)> = staying
            .into_par_iter()
            .map(|(n, d)| {
                let set = shingles(&d.text, &d.language, near.shingle);
                (n, hash::of_sequence(&set), bands(&set, near))
            })
            .collect();
        for (document, content, bands) in signed {
            for (band, value) in bands.into_iter().enumerate() {
                let key = hash::of_sequence(&[band as u64, value]);
                out.push(Band { key, document, content })?;
            }
        }
        Ok(())
    })?;
    out.finish(&file_name(Step::Signatures, k, "bands.parquet"))?;
    Ok(account)
}

/// Numbers of the pages of a split that have a newer capture.
fn older(job: &Job, k: usize) -> Result<BTreeSet<u64>, Error> {
    let mut rows = job.read::<captures::Older>(&[(Step::Captures, "older.parquet")], split_range(k))?;
    let mut older = BTreeSet::new();
    while let Some(row) = rows.next_row()? {
        older.insert(row.document);
    }
    Ok(older)
}

/// Pairs of documents that share a band. Of a large group not all are paired: each with the first and with the next, so
/// that those that are alike are still connected.
pub fn candidates(job: &Job, k: usize) -> Result<Account, Error> {
    let near = &job.settings.near_duplicates;
    let mut rows = job.read::<Band>(&[(Step::Signatures, "bands.parquet")], job.part(k))?;
    let mut pairs = job.writer(0.2)?;
    let mut alike = Alike::new(job)?;
    let mut pair = |a: &Band, b: &Band| {
        if a.content == b.content || !near.verify {
            let likeness = if a.content == b.content { 1.0 } else { near.similarity };
            return alike.push(a.document, b.document, likeness);
        }
        Ok(pairs.push(Pair { sender: b.document, receiver: a.document })?)
    };
    while let Some(first) = rows.next_row()? {
        let key = first.key;
        let mut group = vec![first];
        let mut is_large = false;
        while let Some(row) = rows.next_of(key)? {
            if !is_large && group.len() < FULL_COMPARISON {
                group.push(row);
                continue;
            }
            if !is_large {
                // From here on only the first and the last are kept.
                is_large = true;
                for n in 1..group.len() {
                    pair(&group[0], &group[n])?;
                    pair(&group[n - 1], &group[n])?;
                }
                group = vec![group.swap_remove(0), group.pop().unwrap_or_else(|| row.clone())];
            }
            pair(&group[0], &row)?;
            pair(&group[1], &row)?;
            group[1] = row;
        }
        if !is_large {
            for (n, a) in group.iter().enumerate() {
                group[n + 1..].iter().try_for_each(|b| pair(a, b))?;
            }
        }
    }
    pairs.finish(&file_name(Step::Candidates, k, "pairs.parquet"))?;
    alike.finish(Step::Candidates, k)?;
    Ok(Account::default())
}

/// Sends texts of a split to where they are compared.
pub fn texts(job: &Job, k: usize) -> Result<Account, Error> {
    let mut rows = job.read::<Pair>(&[(Step::Candidates, "pairs.parquet")], split_range(k))?;
    let mut out = job.writer(0.4)?;
    let mut wanted = rows.next_row()?;
    if wanted.is_some() {
        job.pages(k).batches(|row, batch| {
            job.ctx.stop.check()?;
            for (n, document) in (number(k, row)..).zip(batch) {
                while let Some(pair) = wanted.take_if(|pair| pair.sender == n) {
                    out.push(Text {
                        receiver: pair.receiver,
                        sender: n,
                        language: document.language.clone(),
                        text: document.text.clone(),
                    })?;
                    wanted = rows.next_row()?;
                }
            }
            Ok(())
        })?;
    }
    out.finish(&file_name(Step::Texts, k, "texts.parquet"))?;
    Ok(Account::default())
}

/// Compares the documents of a split with the texts that were sent to them.
pub fn similar(job: &Job, k: usize) -> Result<Account, Error> {
    let near = &job.settings.near_duplicates;
    let mut rows = job.read::<Text>(&[(Step::Texts, "texts.parquet")], split_range(k))?;
    let mut alike = Alike::new(job)?;
    let mut next = rows.next_row()?;
    if next.is_some() {
        job.pages(k).batches(|row, batch| {
            job.ctx.stop.check()?;
            for (n, document) in (number(k, row)..).zip(batch) {
                if next.as_ref().is_none_or(|text| text.receiver != n) {
                    continue;
                }
                let own = shingles(&document.text, &document.language, near.shingle);
                while let Some(text) = next.take_if(|text| text.receiver == n) {
                    let likeness = jaccard(&own, &shingles(&text.text, &text.language, near.shingle));
                    if likeness >= near.similarity {
                        alike.push(n, text.sender, likeness)?;
                    }
                    next = rows.next_row()?;
                }
            }
            Ok(())
        })?;
    }
    alike.finish(Step::Similar, k)?;
    Ok(Account::default())
}

/// Where pairs go that are alike: to the search for connected components, and to the two documents.
struct Alike {
    edges: crate::exchange::Writer<Edge>,
    likeness: crate::exchange::Writer<Likeness>,
}

impl Alike {
    fn new(job: &Job) -> Result<Self, Error> {
        Ok(Self { edges: job.writer(0.15)?, likeness: job.writer(0.1)? })
    }

    fn push(&mut self, a: u64, b: u64, likeness: f32) -> Result<(), Error> {
        self.edges.push(Edge::new(a, b))?;
        self.edges.push(Edge::new(b, a))?;
        self.likeness.push(Likeness::new(a, b, likeness))?;
        self.likeness.push(Likeness::new(b, a, likeness))?;
        Ok(())
    }

    fn finish(self, step: Step, k: usize) -> Result<(), Error> {
        self.edges.finish(&file_name(step, k, "edges.parquet"))?;
        self.likeness.finish(&file_name(step, k, "likeness.parquet"))?;
        Ok(())
    }
}

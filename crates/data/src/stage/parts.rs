//! What tasks leave: Parquet files of documents and of rejects, and an account, which is written last and says that the
//! task is done.

use super::plan::{Step, file_name};
use super::publish::Amount;
use crate::archive::Damage;
use crate::documents::{self, Document, DocumentsError};
use crate::error::Error;
use crate::funnel::Funnel;
use crate::rejects::{self, Reject};
use crate::storage::{Chunks, Folder};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;

/// Documents handled at a time, and bytes of their texts.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 8 << 20;

/// What a task did. Most steps fill a few of its fields.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Account {
    /// Time that it took.
    pub seconds: f64,
    /// Responses, or rows, of the split.
    pub responses: u64,
    pub damage: Vec<Damage>,
    pub funnel: Funnel,
    /// Documents and bytes by language and by domain.
    pub languages: BTreeMap<String, Amount>,
    pub domains: BTreeMap<String, Amount>,
    pub clusters: u64,
    pub frequent_lines: u64,
    /// Rows that were read, and a sum of their hashes.
    pub rows: u64,
    pub fingerprint: u64,
    /// n-grams of benchmarks that were met.
    pub benchmark_grams: Vec<u32>,
}

/// Documents and rejects that a task writes.
pub struct Part<'a> {
    folder: &'a Folder,
    documents: String,
    rejects: String,
}

impl<'a> Part<'a> {
    pub fn new(folder: &'a Folder, step: Step, k: usize) -> Self {
        let file = |what| file_name(step, k, what);
        Self { folder, documents: file("documents.parquet"), rejects: file("rejects.parquet") }
    }

    /// Makes the part: `fill` pushes documents and rejects.
    pub fn make(&self, fill: impl FnOnce(&mut Sink) -> Result<(), Error>) -> Result<(), Error> {
        self.folder.create(&self.documents, |documents| {
            self.folder.create(&self.rejects, |rejects| {
                let mut sink = Sink {
                    documents: documents::Writer::new(documents, &self.folder.path(&self.documents))?,
                    rejects: rejects::Writer::new(rejects, &self.folder.path(&self.rejects))?,
                };
                fill(&mut sink)?;
                sink.documents.finish()?;
                sink.rejects.finish()?;
                Ok(())
            })
        })
    }

    /// Hands the documents to `each` in batches, in order; the first argument is the row of the batch's first.
    pub fn batches(
        &self,
        mut each: impl FnMut(usize, Vec<Document>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let blob = self.folder.open(&self.documents)?;
        let path = blob.path().to_path_buf();
        let mut reader = documents::read_chunks(Chunks::from(blob), &path)?;
        let mut row = 0;
        loop {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < BATCH && bytes < BATCH_BYTES {
                let Some(document) = reader.next().transpose()? else { break };
                bytes += document.text.len();
                batch.push(document);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let count = batch.len();
            each(row, batch)?;
            row += count;
        }
    }

    /// Puts the file of documents into another folder.
    pub fn move_documents(&self, to: &Folder, name: &str) -> Result<(), Error> {
        Ok(self.folder.move_file(&self.documents, to, name)?)
    }

    /// Puts the file of rejects into another folder.
    pub fn move_rejects(&self, to: &Folder, name: &str) -> Result<(), Error> {
        Ok(self.folder.move_file(&self.rejects, to, name)?)
    }

    /// The rejects, in order.
    pub fn rejects(&self) -> Result<impl Iterator<Item = Result<Reject, DocumentsError>> + use<>, Error> {
        let blob = self.folder.open(&self.rejects)?;
        let path = blob.path().to_path_buf();
        Ok(rejects::read_chunks(Chunks::from(blob), &path)?)
    }
}

/// Where a map puts what it makes.
pub struct Sink<'w> {
    documents: documents::Writer<&'w mut BufWriter<File>>,
    rejects: rejects::Writer<&'w mut BufWriter<File>>,
}

impl Sink<'_> {
    /// Takes a document or its reject.
    pub fn push(&mut self, result: Result<Document, Reject>) -> Result<(), Error> {
        match result {
            Ok(document) => self.documents.push(document)?,
            Err(reject) => self.rejects.push(reject)?,
        }
        Ok(())
    }
}

/// The number of a document among all splits.
pub fn number(split: usize, row: usize) -> u64 {
    (split as u64) << 32 | row as u64
}

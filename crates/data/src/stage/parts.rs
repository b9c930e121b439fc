//! Parts of the work in progress: a Parquet file of documents, one of rejects, and an account that is written last and
//! makes the part complete.

use crate::archive::Damage;
use crate::documents::{self, Document, DocumentsError};
use crate::error::Error;
use crate::funnel::Funnel;
use crate::rejects::{self, Reject};
use herd_run::atomic::{self, FileError};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Documents handled at a time.
const BATCH: usize = 256;

/// What a part holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Account {
    pub responses: u64,
    pub damage: Vec<Damage>,
    pub funnel: Funnel,
}

/// The files of a part.
#[derive(Debug, Clone)]
pub struct Part {
    pub documents: PathBuf,
    pub rejects: PathBuf,
    account: PathBuf,
}

impl Part {
    pub fn new(work: &Path, kind: &str, number: usize) -> Self {
        let file = |what: &str| work.join(format!("{kind}-{number:05}.{what}"));
        Self { documents: file("parquet"), rejects: file("rejects.parquet"), account: file("json") }
    }

    pub fn is_complete(&self) -> bool {
        self.account.exists()
    }

    pub fn account(&self) -> Result<Account, FileError> {
        atomic::read_json(&self.account)
    }

    /// Makes the part: `fill` pushes documents and rejects. An earlier, incomplete attempt is overwritten.
    pub fn make(&self, fill: impl FnOnce(&mut Sink) -> Result<(), Error>) -> Result<(), Error> {
        let mut account = Account::default();
        atomic::create(&self.documents, |documents| {
            atomic::create(&self.rejects, |rejects| {
                let mut sink = Sink {
                    documents: documents::Writer::new(documents, &self.documents)?,
                    rejects: rejects::Writer::new(rejects, &self.rejects)?,
                    account: &mut account,
                };
                fill(&mut sink)?;
                sink.documents.finish()?;
                sink.rejects.finish()?;
                Ok::<_, Error>(())
            })
        })?;
        Ok(atomic::write_json(&self.account, &account)?)
    }

    /// Hands the documents to `each` in batches, in order; the first argument is the row of the batch's first.
    pub fn batches(
        &self,
        mut each: impl FnMut(usize, Vec<Document>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut reader = documents::read(&self.documents)?;
        let mut row = 0;
        loop {
            let batch = reader.by_ref().take(BATCH).collect::<Result<Vec<_>, DocumentsError>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            let count = batch.len();
            each(row, batch)?;
            row += count;
        }
    }
}

/// Where a map puts what it makes.
pub struct Sink<'a, 'w> {
    documents: documents::Writer<&'w mut BufWriter<File>>,
    rejects: rejects::Writer<&'w mut BufWriter<File>>,
    pub account: &'a mut Account,
}

impl Sink<'_, '_> {
    /// Takes a document or its reject.
    pub fn push(&mut self, result: Result<Document, Reject>) -> Result<(), Error> {
        match result {
            Ok(document) => self.documents.push(document)?,
            Err(reject) => self.rejects.push(reject)?,
        }
        Ok(())
    }
}

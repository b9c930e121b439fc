//! Rows of a range of keys out of many sorted files, in order.

use super::Record;
use super::writer::write;
use crate::documents::{Columns, DocumentsError};
use crate::storage::{Chunks, Folder};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use tempfile::TempDir;

/// Where a file says the first and the last key of its row groups.
pub(super) const KEYS: &str = "herd.keys";
/// Rows of a file that are held.
const BATCH_ROWS: usize = 256;
/// What an open file takes in memory, about: a page of each column, its decompressor, rows.
const FILE_BYTES: usize = 512 << 10;
/// Fewest files that are merged at a time.
const LEAST_FILES: usize = 8;

type Source<R> = Box<dyn Iterator<Item = Result<R, DocumentsError>> + Send>;

/// Merges the rows with keys in `range` of the files `names`. More files than the memory allows to be open together are
/// merged in several rounds.
///
/// # Errors
///
/// A file that is missing or damaged.
pub fn merge<R: Record>(
    folder: &Folder,
    names: &[String],
    range: RangeInclusive<u64>,
    memory: usize,
) -> Result<Merge<R>, DocumentsError> {
    let together = (memory / FILE_BYTES).max(LEAST_FILES);
    let open = |folder: &Folder, names: &[String]| {
        names.iter().map(|name| open(folder, name, &range)).collect::<Result<Vec<Option<Source<R>>>, _>>()
    };
    if names.len() <= together {
        return Merge::of(open(folder, names)?.into_iter().flatten().collect());
    }
    let scratch = folder.scratch()?;
    let runs = Folder::at(scratch.path())?;
    let mut left: Vec<(bool, String)> = names.iter().map(|name| (false, name.clone())).collect();
    let mut made = 0;
    while left.len() > together {
        // The oldest go first, so that all rows take part in about as many rounds.
        let some: Vec<_> = left.drain(..together).collect();
        let mut sources = Vec::new();
        for (is_run, name) in &some {
            let from = if *is_run { &runs } else { folder };
            sources.extend(open(from, std::slice::from_ref(name))?.into_iter().flatten());
        }
        let run = format!("merged-{made}");
        made += 1;
        write(&runs, &run, Merge::of(sources)?, 1)?;
        for (_, name) in some.iter().filter(|(is_run, _)| *is_run) {
            let path = runs.path(name);
            std::fs::remove_file(&path).map_err(herd_run::atomic::FileError::at("remove", &path))?;
        }
        left.push((true, run));
    }
    let mut sources = Vec::new();
    for (is_run, name) in &left {
        let from = if *is_run { &runs } else { folder };
        sources.extend(open(from, std::slice::from_ref(name))?.into_iter().flatten());
    }
    Ok(Merge { _scratch: Some(scratch), ..Merge::of(sources)? })
}

/// Rows of several sorted sources in order; a row that the one before takes in does not appear.
pub struct Merge<R: Record> {
    sources: Vec<Source<R>>,
    /// The next row of each source.
    heads: BinaryHeap<Reverse<(R, usize)>>,
    failed: Option<DocumentsError>,
    _scratch: Option<TempDir>,
}

impl<R: Record> Merge<R> {
    /// Merges sources that are sorted.
    pub(super) fn of(mut sources: Vec<Source<R>>) -> Result<Self, DocumentsError> {
        let mut heads = BinaryHeap::with_capacity(sources.len());
        for (n, source) in sources.iter_mut().enumerate() {
            if let Some(row) = source.next() {
                heads.push(Reverse((row?, n)));
            }
        }
        Ok(Self { sources, heads, failed: None, _scratch: None })
    }

    fn pop(&mut self) -> Option<R> {
        let Reverse((row, source)) = self.heads.pop()?;
        match self.sources[source].next() {
            Some(Ok(next)) => self.heads.push(Reverse((next, source))),
            Some(Err(error)) => {
                self.heads.clear();
                self.failed = Some(error);
            }
            None => {}
        }
        Some(row)
    }

    /// The rows, to be taken key by key.
    pub fn groups(self) -> Groups<R> {
        Groups { rows: self, next: None }
    }
}

impl<R: Record> Iterator for Merge<R> {
    type Item = Result<R, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(mut row) = self.pop() else { return self.failed.take().map(Err) };
        while self.heads.peek().is_some_and(|Reverse((next, _))| row.absorb(next)) {
            self.pop();
        }
        match self.failed.take() {
            Some(error) => Some(Err(error)),
            None => Some(Ok(row)),
        }
    }
}

/// Hands out rows one by one, and knows where a key ends.
pub struct Groups<R: Record> {
    rows: Merge<R>,
    next: Option<R>,
}

impl<R: Record> Groups<R> {
    /// The next row, whatever its key.
    pub fn next_row(&mut self) -> Result<Option<R>, DocumentsError> {
        match self.next.take() {
            Some(row) => Ok(Some(row)),
            None => self.rows.next().transpose(),
        }
    }

    /// The next row, if it has that key.
    pub fn next_of(&mut self, key: u64) -> Result<Option<R>, DocumentsError> {
        if self.next.is_none() {
            self.next = self.rows.next().transpose()?;
        }
        Ok(self.next.take_if(|row| row.key() == key))
    }
}

/// First and last key of each row group.
#[cfg(test)]
pub(super) fn group_ranges(chunks: Chunks) -> Result<Vec<(u64, u64)>, ParquetError> {
    ranges(&ParquetRecordBatchReaderBuilder::try_new(chunks)?)
}

fn ranges(builder: &ParquetRecordBatchReaderBuilder<Chunks>) -> Result<Vec<(u64, u64)>, ParquetError> {
    let metadata = builder.metadata();
    let said = metadata.file_metadata().key_value_metadata();
    let keys = said.and_then(|all| all.iter().find(|kv| kv.key == KEYS)).and_then(|kv| kv.value.as_deref());
    let pair = |text: &str| {
        let (a, b) = text.split_once('-')?;
        Some((a.parse().ok()?, b.parse().ok()?))
    };
    let ranges: Option<Vec<(u64, u64)>> = keys.and_then(|keys| keys.split_whitespace().map(pair).collect());
    ranges
        .filter(|ranges| ranges.len() == metadata.num_row_groups())
        .ok_or_else(|| ParquetError::General(format!("no `{KEYS}` in the footer; this is no exchange file")))
}

/// Rows of a file with keys in a range; `None` if it has none.
fn open<R: Record>(
    folder: &Folder,
    name: &str,
    range: &RangeInclusive<u64>,
) -> Result<Option<Source<R>>, DocumentsError> {
    let blob = folder.open(name)?;
    let path = blob.path().to_path_buf();
    let chunks = Chunks::from(blob);
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(DocumentsError::parquet(&path))?;
    let ranges = ranges(&builder).map_err(DocumentsError::parquet(&path))?;
    let groups: Vec<usize> = ranges
        .iter()
        .enumerate()
        .filter(|(_, (first, last))| first <= range.end() && last >= range.start())
        .map(|(n, _)| n)
        .collect();
    if groups.is_empty() {
        return Ok(None);
    }
    let batches = builder
        .with_row_groups(groups)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(DocumentsError::parquet(&path))?;
    Ok(Some(Box::new(FileRows { batches, rows: Vec::new().into_iter(), path, range: range.clone() })))
}

/// Rows of one file.
struct FileRows<R> {
    batches: ParquetRecordBatchReader,
    rows: std::vec::IntoIter<R>,
    path: PathBuf,
    range: RangeInclusive<u64>,
}

impl<R: Record> Iterator for FileRows<R> {
    type Item = Result<R, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            for row in self.rows.by_ref() {
                if self.range.contains(&row.key()) {
                    return Some(Ok(row));
                }
            }
            let rows = match self.batches.next()? {
                Ok(batch) => R::rows(&Columns { batch: &batch, path: &self.path }),
                Err(error) => Err(DocumentsError::parquet(&self.path)(error.into())),
            };
            match rows {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

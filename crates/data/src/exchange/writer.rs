//! Sorts rows within a bound of memory and writes them as one file.

use super::Record;
use super::merge::{KEYS, Merge};
use crate::documents::DocumentsError;
use crate::storage::Folder;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

/// Rows of a row group at most.
const GROUP_ROWS: usize = 1 << 16;
/// Rows that become columns together.
const BATCH_ROWS: usize = 4096;
/// Bytes of values in rows that become columns together.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of a row group before it ends where a split of documents ends: what a reader reads of a file in vain.
const SPLIT_BYTES: usize = 64 << 10;
/// Bytes of a page: what a merge holds of each column of each file.
const PAGE_BYTES: usize = 64 << 10;

/// Bounds of a [`Writer`].
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of rows in memory; more are sorted and written to a file of their own first.
    pub memory: usize,
    /// Row groups end where a hash passes one of this many equal parts, so that a reader of a part reads no other. (Those of
    /// rows by document end where a split does, unless they are small.)
    pub borders: usize,
}

/// Takes rows in any order.
pub struct Writer<R: Record> {
    folder: Folder,
    limits: Limits,
    rows: Vec<R>,
    bytes: usize,
    scratch: Option<TempDir>,
    runs: usize,
}

impl<R: Record> Writer<R> {
    /// A file of `folder` is to be written.
    pub fn new(folder: &Folder, limits: Limits) -> Result<Self, DocumentsError> {
        Ok(Self { folder: folder.clone(), limits, rows: Vec::new(), bytes: 0, scratch: None, runs: 0 })
    }

    /// Takes a row.
    pub fn push(&mut self, row: R) -> Result<(), DocumentsError> {
        self.bytes += row.size();
        self.rows.push(row);
        if self.bytes >= self.limits.memory {
            self.sort();
            // Rows that were summed up may have made room enough.
            if self.bytes * 2 >= self.limits.memory {
                self.spill()?;
            }
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.rows.sort_unstable();
        self.rows.dedup_by(|later, first| first.absorb(later));
        self.bytes = self.rows.iter().map(Record::size).sum();
    }

    fn spill(&mut self) -> Result<(), DocumentsError> {
        let scratch = match self.scratch.take() {
            Some(scratch) => scratch,
            None => self.folder.scratch()?,
        };
        let run = Folder::at(scratch.path())?;
        self.scratch = Some(scratch);
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        write(&run, &self.runs.to_string(), rows.into_iter().map(Ok), 1)?;
        self.runs += 1;
        Ok(())
    }

    /// Writes the file `name`, complete or not at all.
    ///
    /// # Errors
    ///
    /// A disk or store that does not take it.
    pub fn finish(mut self, name: &str) -> Result<(), DocumentsError> {
        self.sort();
        let Some(scratch) = &self.scratch else {
            let rows = std::mem::take(&mut self.rows);
            return write(&self.folder, name, rows.into_iter().map(Ok), self.limits.borders);
        };
        let runs = Folder::at(scratch.path())?;
        let names: Vec<String> = (0..self.runs).map(|n| n.to_string()).collect();
        let rows = std::mem::take(&mut self.rows);
        let merged = super::merge(&runs, &names, 0..=u64::MAX, self.limits.memory)?;
        write(
            &self.folder,
            name,
            Merge::of(vec![Box::new(merged), Box::new(rows.into_iter().map(Ok))])?,
            self.limits.borders,
        )
    }
}

/// Writes sorted rows.
pub(super) fn write<R: Record>(
    folder: &Folder,
    name: &str,
    rows: impl Iterator<Item = Result<R, DocumentsError>>,
    borders: usize,
) -> Result<(), DocumentsError> {
    let path = folder.path(name);
    folder.create(name, |out| {
        let mut file = Output::new(out, &path, borders)?;
        rows.into_iter().try_for_each(|row| file.push(row?))?;
        file.finish()
    })
}

/// A file being written.
struct Output<'a, W: Write + Send, R: Record> {
    inner: ArrowWriter<W>,
    path: &'a Path,
    borders: usize,
    rows: Vec<R>,
    bytes: usize,
    /// Rows of the row group that are written.
    in_group: usize,
    /// Bytes of all rows of the row group.
    group_bytes: usize,
    /// First and last key of each row group.
    groups: Vec<(u64, u64)>,
}

impl<'a, W: Write + Send, R: Record> Output<'a, W, R> {
    fn new(out: W, path: &'a Path, borders: usize) -> Result<Self, DocumentsError> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
            .set_dictionary_enabled(false)
            .set_data_page_size_limit(PAGE_BYTES)
            .set_write_batch_size(256)
            .build();
        let inner = ArrowWriter::try_new(out, R::schema(), Some(properties))
            .map_err(DocumentsError::parquet(path))?;
        Ok(Self {
            inner,
            path,
            borders,
            rows: Vec::new(),
            bytes: 0,
            in_group: 0,
            group_bytes: 0,
            groups: Vec::new(),
        })
    }

    /// Whether a row group should end between two keys that follow each other.
    fn is_border(&self, last: u64, next: u64) -> bool {
        if R::BY_DOCUMENT {
            return self.group_bytes >= SPLIT_BYTES && last >> 32 != next >> 32;
        }
        let part = |key: u64| (u128::from(key) * self.borders as u128) >> 64;
        part(last) != part(next)
    }

    fn push(&mut self, row: R) -> Result<(), DocumentsError> {
        let is_over = self.in_group + self.rows.len() >= GROUP_ROWS;
        let last = self.rows.last().map(Record::key).or(self
            .groups
            .last()
            .filter(|_| self.in_group > 0)
            .map(|g| g.1));
        if is_over || last.is_some_and(|last| self.is_border(last, row.key())) {
            self.end_group()?;
        }
        self.bytes += row.size();
        self.group_bytes += row.size();
        self.rows.push(row);
        if self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES { self.flush_rows() } else { Ok(()) }
    }

    fn flush_rows(&mut self) -> Result<(), DocumentsError> {
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else { return Ok(()) };
        match self.groups.last_mut().filter(|_| self.in_group > 0) {
            Some(group) => group.1 = last.key(),
            None => self.groups.push((first.key(), last.key())),
        }
        let batch = arrow_array::RecordBatch::try_new(R::schema(), R::columns(&self.rows))
            .map_err(|e| DocumentsError::parquet(self.path)(e.into()))?;
        self.inner.write(&batch).map_err(DocumentsError::parquet(self.path))?;
        self.in_group += self.rows.len();
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), DocumentsError> {
        self.flush_rows()?;
        self.in_group = 0;
        self.group_bytes = 0;
        self.inner.flush().map_err(DocumentsError::parquet(self.path))
    }

    fn finish(mut self) -> Result<(), DocumentsError> {
        self.end_group()?;
        let keys: Vec<String> = self.groups.iter().map(|(a, b)| format!("{a}-{b}")).collect();
        self.inner.append_key_value_metadata(KeyValue::new(KEYS.to_string(), keys.join(" ")));
        self.inner.close().map(drop).map_err(DocumentsError::parquet(self.path))
    }
}

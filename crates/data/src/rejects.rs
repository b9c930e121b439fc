//! What was dropped, and why: `rejects.parquet` with url, rule, value, threshold, the text that triggered the rule, the
//! beginning of the document and, for near-duplicates, their cluster.

use crate::batches::Batches;
use crate::documents::{Columns, DocumentsError, properties};
use crate::filters::Reason;
use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::file::reader::ChunkReader;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BATCH_ROWS: usize = 1024;

/// One dropped document.
#[derive(Debug, Clone, PartialEq)]
pub struct Reject {
    /// Its URL.
    pub url: String,
    /// Why.
    pub reason: Reason,
    /// The cluster of near-duplicates it is of, if that is why: `cluster` of the document that stays.
    pub cluster: Option<Box<str>>,
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("url", DataType::Utf8, false),
        Field::new("rule", DataType::Utf8, false),
        Field::new("value", DataType::Float32, false),
        Field::new("threshold", DataType::Float32, false),
        Field::new("excerpt", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, false),
        Field::new("cluster", DataType::Utf8, true),
    ]))
}

/// Writes rejects one by one.
pub struct Writer<W: Write + Send> {
    inner: ArrowWriter<W>,
    path: PathBuf,
    rows: Vec<Reject>,
}

impl<W: Write + Send> Writer<W> {
    /// Begins a file; `path` is only named in errors.
    pub fn new(out: W, path: &Path) -> Result<Self, DocumentsError> {
        let inner =
            ArrowWriter::try_new(out, schema(), Some(properties())).map_err(DocumentsError::parquet(path))?;
        Ok(Self { inner, path: path.to_path_buf(), rows: Vec::new() })
    }

    /// Appends a reject.
    pub fn push(&mut self, reject: Reject) -> Result<(), DocumentsError> {
        self.rows.push(reject);
        if self.rows.len() >= BATCH_ROWS { self.flush_rows() } else { Ok(()) }
    }

    fn flush_rows(&mut self) -> Result<(), DocumentsError> {
        let rows = std::mem::take(&mut self.rows);
        let text = |field: fn(&Reject) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(field)))
        };
        let number = |field: fn(&Reject) -> f32| -> ArrayRef {
            Arc::new(Float32Array::from_iter_values(rows.iter().map(field)))
        };
        let columns = vec![
            text(|r| &r.url),
            text(|r| &r.reason.rule),
            number(|r| r.reason.value),
            number(|r| r.reason.threshold),
            text(|r| &r.reason.excerpt),
            text(|r| &r.reason.text),
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.cluster.as_deref()))),
        ];
        let batch = RecordBatch::try_new(schema(), columns)
            .map_err(|e| DocumentsError::parquet(&self.path)(e.into()))?;
        self.inner.write(&batch).map_err(DocumentsError::parquet(&self.path))
    }

    /// Writes what is left and the footer; returns the writer underneath.
    pub fn finish(mut self) -> Result<W, DocumentsError> {
        self.flush_rows()?;
        self.inner.into_inner().map_err(DocumentsError::parquet(&self.path))
    }
}

/// The rejects of a file, or of a folder of files, in order.
pub fn read(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Reject, DocumentsError>> + use<>, DocumentsError> {
    Ok(rejects(Batches::open(path, None)?))
}

/// The same from anything that Parquet can be read from; `path` is only named in errors.
pub(crate) fn read_chunks<C: ChunkReader + 'static>(
    chunks: C,
    path: &Path,
) -> Result<impl Iterator<Item = Result<Reject, DocumentsError>> + use<C>, DocumentsError> {
    Ok(rejects(Batches::of(chunks, path, None)?))
}

fn rejects(mut batches: Batches) -> impl Iterator<Item = Result<Reject, DocumentsError>> {
    std::iter::from_fn(move || {
        let rows = batches.next()?.and_then(|batch| rows_of(&batch, batches.path()));
        Some(rows.map_or_else(|error| vec![Err(error)], |rows| rows.into_iter().map(Ok).collect()))
    })
    .flatten()
}

fn rows_of(batch: &RecordBatch, path: &Path) -> Result<Vec<Reject>, DocumentsError> {
    let columns = Columns { batch, path };
    let (url, rule, excerpt) =
        (columns.strings("url")?, columns.strings("rule")?, columns.strings("excerpt")?);
    // Files of earlier versions have none.
    let later = |name| batch.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
    let (text, cluster) = (later("text"), later("cluster"));
    let (value, threshold) = (columns.floats("value")?, columns.floats("threshold")?);
    let reject = |row: usize| Reject {
        url: url.value(row).to_string(),
        reason: Reason {
            rule: rule.value(row).to_string(),
            value: value.value(row),
            threshold: threshold.value(row),
            excerpt: excerpt.value(row).to_string(),
            text: text.map_or(String::new(), |text| text.value(row).to_string()),
        },
        cluster: cluster.filter(|c| c.is_valid(row)).map(|c| c.value(row).into()),
    };
    Ok((0..batch.num_rows()).map(reject).collect())
}

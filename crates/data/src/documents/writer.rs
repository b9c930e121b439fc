//! Writing documents.

use super::{Document, DocumentsError};
use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use herd_run::atomic;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows that become columns together.
const BATCH_ROWS: usize = 256;
/// Text that is gathered before a row group is written, bytes.
const ROW_GROUP_BYTES: usize = 16 << 20;

pub(super) fn schema(values: &[String]) -> Arc<Schema> {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let mut fields = vec![
        text("id"),
        text("url"),
        text("date"),
        text("title"),
        text("language"),
        Field::new("language_score", DataType::Float32, false),
        text("domain"),
        Field::new("license", DataType::Utf8, true),
        text("source"),
        Field::new("author", DataType::Utf8, true),
        Field::new("canonical", DataType::Utf8, true),
        Field::new("cluster", DataType::Utf8, true),
        text("page_type"),
        text("text"),
    ];
    fields.extend(values.iter().map(|name| Field::new(name, DataType::Float32, true)));
    Arc::new(Schema::new(fields))
}

pub(crate) fn properties() -> WriterProperties {
    let level = ZstdLevel::try_new(3).unwrap_or_default();
    WriterProperties::builder().set_compression(Compression::ZSTD(level)).build()
}

/// Writes documents one by one; memory is bounded by a row group.
pub struct Writer<W: Write + Send> {
    inner: Output<W>,
    path: PathBuf,
    rows: Vec<Document>,
    text_bytes: usize,
}

/// The columns of values are those of the first document, so the file begins when it is there.
enum Output<W: Write + Send> {
    Ready(W),
    Open(Box<Open<W>>),
    /// Only within a call, and after one that failed.
    Broken,
}

/// A file that has begun.
struct Open<W: Write + Send> {
    writer: ArrowWriter<W>,
    values: Vec<String>,
    schema: Arc<Schema>,
}

impl<W: Write + Send> Writer<W> {
    /// Begins a file; `path` is only named in errors.
    pub fn new(out: W, path: &Path) -> Result<Self, DocumentsError> {
        Ok(Self { inner: Output::Ready(out), path: path.to_path_buf(), rows: Vec::new(), text_bytes: 0 })
    }

    /// Appends a document.
    pub fn push(&mut self, document: Document) -> Result<(), DocumentsError> {
        self.text_bytes += document.text.len();
        self.rows.push(document);
        if self.rows.len() >= BATCH_ROWS || self.text_bytes >= ROW_GROUP_BYTES {
            self.flush_rows()?;
        }
        Ok(())
    }

    /// The file, begun if it is not.
    fn open(&mut self, first: Option<&Document>) -> Result<&mut Open<W>, DocumentsError> {
        if matches!(self.inner, Output::Ready(_))
            && let Output::Ready(out) = std::mem::replace(&mut self.inner, Output::Broken)
        {
            let values: Vec<String> = first.map(|d| d.values.keys().cloned().collect()).unwrap_or_default();
            let schema = schema(&values);
            let writer = ArrowWriter::try_new(out, schema.clone(), Some(properties()))
                .map_err(DocumentsError::parquet(&self.path))?;
            self.inner = Output::Open(Box::new(Open { writer, values, schema }));
        }
        match &mut self.inner {
            Output::Open(open) => Ok(open),
            _ => {
                let problem = ParquetError::General("an earlier write failed".into());
                Err(DocumentsError::parquet(&self.path)(problem))
            }
        }
    }

    fn flush_rows(&mut self) -> Result<(), DocumentsError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        self.text_bytes = 0;
        let path = self.path.clone();
        let Open { writer, values, schema } = self.open(rows.first())?;
        if let Some(odd) = rows.iter().find(|d| !d.values.keys().eq(values.iter())) {
            let there: Vec<_> = odd.values.keys().map(String::as_str).collect();
            let problem = format!(
                "differ: {} has {}, the first document {}",
                odd.url,
                there.join(", "),
                values.join(", ")
            );
            return Err(DocumentsError::column(&path, "(values)", problem));
        }
        let text = |field: fn(&Document) -> &str| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(field)))
        };
        let mut columns: Vec<ArrayRef> = vec![
            text(|d| &d.id),
            text(|d| &d.url),
            text(|d| &d.date),
            text(|d| &d.title),
            text(|d| &d.language),
            Arc::new(Float32Array::from_iter_values(rows.iter().map(|d| d.language_score))),
            text(|d| d.domain.name()),
            Arc::new(StringArray::from_iter(rows.iter().map(|d| d.license.as_deref()))),
            text(|d| &d.source),
            Arc::new(StringArray::from_iter(rows.iter().map(|d| d.author.as_deref()))),
            Arc::new(StringArray::from_iter(rows.iter().map(|d| d.canonical.as_deref()))),
            Arc::new(StringArray::from_iter(rows.iter().map(|d| d.cluster.as_deref()))),
            text(|d| d.page_type.name()),
            text(|d| &d.text),
        ];
        for name in values {
            let value = |d: &Document| d.values.get(name).copied().filter(|v| !v.is_nan());
            columns.push(Arc::new(Float32Array::from_iter(rows.iter().map(value))));
        }
        let batch = RecordBatch::try_new(schema.clone(), columns)
            .map_err(|e| DocumentsError::parquet(&path)(e.into()))?;
        writer.write(&batch).map_err(DocumentsError::parquet(&path))?;
        if writer.in_progress_size() >= ROW_GROUP_BYTES {
            writer.flush().map_err(DocumentsError::parquet(&path))?;
        }
        Ok(())
    }

    /// Writes what is left and the footer; returns the writer underneath.
    pub fn finish(mut self) -> Result<W, DocumentsError> {
        self.flush_rows()?;
        self.open(None)?;
        match self.inner {
            Output::Open(open) => open.writer.into_inner().map_err(DocumentsError::parquet(&self.path)),
            Output::Ready(out) => Ok(out),
            Output::Broken => Err(DocumentsError::parquet(&self.path)(ParquetError::General(
                "an earlier write failed".into(),
            ))),
        }
    }
}

/// Writes a file of documents, complete or not at all.
pub fn write(path: &Path, documents: impl IntoIterator<Item = Document>) -> Result<(), DocumentsError> {
    atomic::create(path, |out: &mut BufWriter<File>| {
        let mut writer = Writer::new(out, path)?;
        for document in documents {
            writer.push(document)?;
        }
        writer.finish().map(|_| ())
    })
}

//! Clean documents as Parquet: the interface between curation and everything after it.
//!
//! Columns: `id, url, date, title, language, language_score, domain, license, source, author,
//! canonical, cluster, page_type, text`, and after them one 32-bit float column for everything that a filter measured; files
//! without `author`, `canonical`, `cluster` and `page_type` are read too. Rows are streamed both ways, so a file may be far larger
//! than memory.

use crate::extract::PageType;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use herd_run::atomic::{self, FileError};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::ChunkReader;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows of one batch in memory; a document is some kilobytes.
const BATCH_ROWS: usize = 256;
/// Text that is gathered before a row group is written, bytes.
const ROW_GROUP_BYTES: usize = 16 << 20;

/// The part of the mix that a document belongs to (SPEC DATA-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// English prose.
    General,
    /// Source code, or prose interleaved with it.
    Code,
    /// Mathematical text.
    Mathematics,
    /// Any language but English.
    Multilingual,
}

impl Domain {
    /// All of them, in the order of reports.
    pub const ALL: [Domain; 4] = [Domain::General, Domain::Code, Domain::Mathematics, Domain::Multilingual];

    /// The name in files: `general`, `code`, `mathematics`, `multilingual`.
    pub fn name(self) -> &'static str {
        match self {
            Domain::General => "general",
            Domain::Code => "code",
            Domain::Mathematics => "mathematics",
            Domain::Multilingual => "multilingual",
        }
    }

    /// The domain of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|d| d.name() == name)
    }
}

/// One clean document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Hash of the normalised URL, 32 hexadecimal digits.
    pub id: String,
    /// The URL as it was crawled.
    pub url: String,
    /// When it was crawled, RFC 3339.
    pub date: String,
    /// The page's title; empty if it has none.
    pub title: String,
    /// Code of lid.176 (ISO 639), such as `en`.
    pub language: String,
    /// Probability of that language, 0 to 1.
    pub language_score: f32,
    /// The part of the mix.
    pub domain: Domain,
    /// The licence that the page states, if any.
    pub license: Option<String>,
    /// Who wrote it, as the page states.
    pub author: Option<String>,
    /// The URL that the page calls its own.
    pub canonical: Option<String>,
    /// The cluster of near-duplicates that it stands for, if any: its own `id`. Rejects name it too.
    pub cluster: Option<String>,
    /// What kind of page it is.
    pub page_type: PageType,
    /// File name of the archive it came from.
    pub source: String,
    /// Clean plain text.
    pub text: String,
    /// What the filters measured, by the name of the column. All documents of a file have the same names; a value that
    /// does not exist for one of them is NaN here and null in the file.
    pub values: BTreeMap<String, f32>,
}

/// Why documents cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentsError {
    /// The file cannot be opened or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content is not Parquet, or damaged.
    #[error("{}: not readable as Parquet: {source} (make it again with `herd data`)", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What Parquet says.
        #[source]
        source: ParquetError,
    },
    /// A line of JSON Lines is none.
    #[error("{}:{line}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A column is missing, of another type, or holds a value that cannot be.
    #[error("{}: column `{column}` {problem}", path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl DocumentsError {
    pub(crate) fn parquet(path: &Path) -> impl FnOnce(ParquetError) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Parquet { path, source }
    }

    pub(crate) fn column(path: &Path, column: &str, problem: impl Into<String>) -> Self {
        Self::Column { path: path.to_path_buf(), column: column.to_string(), problem: problem.into() }
    }
}

fn schema(values: &[String]) -> Arc<Schema> {
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

/// Documents of a file, one by one in their order.
pub struct Reader {
    batches: ParquetRecordBatchReader,
    rows: std::vec::IntoIter<Document>,
    total: u64,
    path: PathBuf,
}

/// Opens a file of documents. Further columns of 32-bit floats are values; others are ignored.
pub fn read(path: &Path) -> Result<Reader, DocumentsError> {
    let file = File::open(path).map_err(FileError::at("read", path))?;
    read_chunks(file, path)
}

/// The same from anything that Parquet can be read from; `path` is only named in errors.
pub(crate) fn read_chunks(chunks: impl ChunkReader + 'static, path: &Path) -> Result<Reader, DocumentsError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(DocumentsError::parquet(path))?;
    let total = builder.metadata().file_metadata().num_rows().max(0) as u64;
    let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(DocumentsError::parquet(path))?;
    Ok(Reader { batches, rows: Vec::new().into_iter(), total, path: path.to_path_buf() })
}

impl Reader {
    /// Documents in the whole file.
    pub fn total(&self) -> u64 {
        self.total
    }

    fn rows_of(&self, batch: &RecordBatch) -> Result<Vec<Document>, DocumentsError> {
        let column = |name: &'static str| Columns { batch, path: &self.path }.strings(name);
        let scores = Columns { batch, path: &self.path }.floats("language_score")?;
        let (id, url, date, title) = (column("id")?, column("url")?, column("date")?, column("title")?);
        let (language, domain, license) = (column("language")?, column("domain")?, column("license")?);
        let (source, text) = (column("source")?, column("text")?);
        // Later columns, which older files lack.
        let later = |name: &'static str| match batch.column_by_name(name) {
            Some(_) => column(name).map(Some),
            None => Ok(None),
        };
        let (author, canonical, page_type) = (later("author")?, later("canonical")?, later("page_type")?);
        let cluster = later("cluster")?;
        let known = schema(&[]);
        let is_value = |field: &Field| {
            *field.data_type() == DataType::Float32 && known.field_with_name(field.name()).is_err()
        };
        let fields = batch.schema_ref().fields().iter();
        let values: Vec<(&str, &Float32Array)> = fields
            .zip(batch.columns())
            .filter(|(field, _)| is_value(field))
            .filter_map(|(field, column)| Some((field.name().as_str(), column.as_primitive_opt()?)))
            .collect();
        let value = |column: Option<&StringArray>, row: usize| {
            column.filter(|c| c.is_valid(row)).map(|c| c.value(row).to_string())
        };
        (0..batch.num_rows())
            .map(|row| {
                let name = domain.value(row);
                let domain = Domain::from_name(name).ok_or_else(|| {
                    let problem =
                        format!("holds '{name}'; known are general, code, mathematics, multilingual");
                    DocumentsError::column(&self.path, "domain", problem)
                })?;
                Ok(Document {
                    id: id.value(row).to_string(),
                    url: url.value(row).to_string(),
                    date: date.value(row).to_string(),
                    title: title.value(row).to_string(),
                    language: language.value(row).to_string(),
                    language_score: scores.value(row),
                    domain,
                    license: license.is_valid(row).then(|| license.value(row).to_string()),
                    author: value(author, row),
                    canonical: value(canonical, row),
                    cluster: value(cluster, row),
                    page_type: value(page_type, row)
                        .and_then(|n| PageType::from_name(&n))
                        .unwrap_or_default(),
                    source: source.value(row).to_string(),
                    text: text.value(row).to_string(),
                    values: values
                        .iter()
                        .map(|(name, column)| {
                            let value = if column.is_valid(row) { column.value(row) } else { f32::NAN };
                            (name.to_string(), value)
                        })
                        .collect(),
                })
            })
            .collect()
    }
}

impl Iterator for Reader {
    type Item = Result<Document, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(document) = self.rows.next() {
                return Some(Ok(document));
            }
            let rows = match self.batches.next()? {
                Ok(batch) => self.rows_of(&batch),
                Err(error) => Err(DocumentsError::parquet(&self.path)(error.into())),
            };
            match rows {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Typed access to the columns of a batch; an error names the file and the column.
pub(crate) struct Columns<'a> {
    pub batch: &'a RecordBatch,
    pub path: &'a Path,
}

impl<'a> Columns<'a> {
    fn array(&self, name: &'static str) -> Result<&'a ArrayRef, DocumentsError> {
        self.batch.column_by_name(name).ok_or_else(|| {
            let there: Vec<_> = self.batch.schema_ref().fields().iter().map(|f| f.name().as_str()).collect();
            DocumentsError::column(self.path, name, format!("is missing; there are {}", there.join(", ")))
        })
    }

    pub fn strings(&self, name: &'static str) -> Result<&'a StringArray, DocumentsError> {
        self.typed(name, "text", |array| array.as_string_opt())
    }

    pub fn floats(&self, name: &'static str) -> Result<&'a Float32Array, DocumentsError> {
        self.typed(name, "32-bit float", |array| array.as_primitive_opt::<Float32Type>())
    }

    /// The column as `cast` understands it; `kind` says what was expected.
    pub fn typed<T>(
        &self,
        name: &'static str,
        kind: &str,
        cast: impl Fn(&'a ArrayRef) -> Option<T>,
    ) -> Result<T, DocumentsError> {
        let array = self.array(name)?;
        cast(array).ok_or_else(|| {
            let problem = format!("has type {}, not {kind}", array.data_type());
            DocumentsError::column(self.path, name, problem)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(n: usize) -> Document {
        Document {
            id: format!("{n:032x}"),
            url: format!("https://a.example/{n}"),
            date: "2026-02-01T00:00:00Z".into(),
            title: "Überschrift".into(),
            language: "de".into(),
            language_score: 0.5 + n as f32 / 4096.0,
            domain: Domain::ALL[n % 4],
            author: n.is_multiple_of(2).then(|| "Ana Lima".to_string()),
            canonical: n.is_multiple_of(5).then(|| format!("https://a.example/c/{n}")),
            cluster: n.is_multiple_of(7).then(|| format!("{n:032x}")),
            page_type: PageType::ALL[n % 7],
            license: n.is_multiple_of(3).then(|| "CC-BY-SA-4.0".to_string()),
            source: "a.warc.gz".into(),
            text: format!("Zeile eins\nZeile {n} \u{1f980}"),
            values: BTreeMap::from([("quality".to_string(), n as f32), ("words".to_string(), 3.0)]),
        }
    }

    #[test]
    fn what_is_written_is_read_back_across_batches() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("documents.parquet");
        let documents: Vec<_> = (0..BATCH_ROWS * 2 + 7).map(document).collect();
        write(&path, documents.clone()).unwrap();
        let reader = read(&path).unwrap();
        assert_eq!(reader.total(), documents.len() as u64);
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), documents);
    }

    #[test]
    fn a_value_that_does_not_exist_is_null_and_other_values_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("documents.parquet");
        let mut none = document(1);
        none.values.insert("quality".into(), f32::NAN);
        write(&path, [document(0), none]).unwrap();
        let read: Vec<_> = read(&path).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(read[0].values["quality"], 0.0);
        assert!(read[1].values["quality"].is_nan() && read[1].values["words"] == 3.0);
        let odd = Document { values: BTreeMap::new(), ..document(2) };
        let message = write(&path, [document(0), odd]).unwrap_err().to_string();
        assert!(message.contains("https://a.example/2") && message.contains("quality, words"), "{message}");
    }

    #[test]
    fn a_file_without_the_later_columns_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new.parquet"), dir.path().join("old.parquet"));
        write(&new, [document(0), document(1)]).unwrap();
        let file = File::open(&new).unwrap();
        let batch =
            ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
        let kept: Vec<usize> = (0..batch.num_columns())
            .filter(|n| {
                !["author", "canonical", "cluster", "page_type"]
                    .contains(&batch.schema().field(*n).name().as_str())
            })
            .collect();
        let batch = batch.project(&kept).unwrap();
        let mut writer = ArrowWriter::try_new(File::create(&old).unwrap(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        let read: Vec<_> = read(&old).unwrap().collect::<Result<_, _>>().unwrap();
        let expected = Document {
            author: None,
            canonical: None,
            cluster: None,
            page_type: PageType::Other,
            ..document(1)
        };
        assert_eq!(read[1], expected);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("documents.parquet");
        write(&path, [document(1)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let message = read(&path).err().unwrap().to_string();
        assert!(message.contains("documents.parquet") && message.contains("herd data"), "{message}");
    }
}

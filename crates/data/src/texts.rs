//! What tokenising needs of documents: only those columns are read, and texts stay where Parquet put them.

use crate::documents::{Columns, DocumentsError, Domain};
use arrow_array::{RecordBatch, StringArray};
use herd_run::atomic::FileError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Rows of one batch in memory; a document is some kilobytes.
const BATCH_ROWS: usize = 256;
/// The columns.
const COLUMNS: [&str; 4] = ["id", "domain", "language", "text"];

/// A document as far as it is read.
#[derive(Clone, Copy)]
pub(crate) struct Text<'t> {
    pub(crate) id: &'t str,
    pub(crate) domain: Domain,
    pub(crate) language: &'t str,
    pub(crate) text: &'t str,
}

/// Some documents of a file.
pub(crate) struct Texts {
    id: StringArray,
    domain: Vec<Domain>,
    language: StringArray,
    text: StringArray,
}

impl Texts {
    fn new(batch: &RecordBatch, path: &Path) -> Result<Self, DocumentsError> {
        let column = |name: &'static str| Columns { batch, path }.strings(name);
        let names = column("domain")?;
        let domain = |row| {
            let name = names.value(row);
            Domain::from_name(name).ok_or_else(|| {
                let problem = format!("holds '{name}'; known are general, code, mathematics, multilingual");
                DocumentsError::column(path, "domain", problem)
            })
        };
        Ok(Self {
            id: column("id")?.clone(),
            domain: (0..batch.num_rows()).map(domain).collect::<Result<_, _>>()?,
            language: column("language")?.clone(),
            text: column("text")?.clone(),
        })
    }

    /// The documents, in the order of the file.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Text<'_>> {
        self.domain.iter().enumerate().map(|(row, &domain)| Text {
            id: self.id.value(row),
            domain,
            language: self.language.value(row),
            text: self.text.value(row),
        })
    }

    /// Bytes of all texts.
    pub(crate) fn bytes(&self) -> usize {
        let ends = self.text.value_offsets();
        (ends[ends.len() - 1] - ends[0]) as usize
    }
}

/// The documents of a file, some at a time.
pub(crate) struct Reader {
    batches: ParquetRecordBatchReader,
    path: PathBuf,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, DocumentsError> {
        let file = File::open(path).map_err(FileError::at("read", path))?;
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(DocumentsError::parquet(path))?;
        let there: Vec<&str> = builder.schema().fields().iter().map(|field| field.name().as_str()).collect();
        if let Some(missing) = COLUMNS.into_iter().find(|name| !there.contains(name)) {
            let problem = format!("is missing; there are {}", there.join(", "));
            return Err(DocumentsError::column(path, missing, problem));
        }
        let columns = ProjectionMask::columns(builder.parquet_schema(), COLUMNS);
        let batches = builder.with_projection(columns).with_batch_size(BATCH_ROWS).build();
        Ok(Self { batches: batches.map_err(DocumentsError::parquet(path))?, path: path.to_path_buf() })
    }
}

impl Iterator for Reader {
    type Item = Result<Texts, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.batches.next()? {
            Ok(batch) => Texts::new(&batch, &self.path),
            Err(error) => Err(DocumentsError::parquet(&self.path)(error.into())),
        })
    }
}

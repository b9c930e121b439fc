//! Reading documents.

use super::writer::schema;
use super::{Columns, Document, DocumentsError, Domain};
use crate::batches::Batches;
use crate::extract::PageType;
use arrow_array::cast::AsArray;
use arrow_array::{Array, Float32Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field};
use parquet::file::reader::ChunkReader;
use std::path::Path;

/// Documents of a file, one by one in their order.
pub struct Reader {
    batches: Batches,
    rows: std::vec::IntoIter<Document>,
}

/// Opens a file of documents, or a folder of such files. Further columns of 32-bit floats are values; others are ignored.
pub fn read(path: &Path) -> Result<Reader, DocumentsError> {
    Ok(Reader { batches: Batches::open(path, None)?, rows: Vec::new().into_iter() })
}

/// The same from anything that Parquet can be read from; `path` is only named in errors.
pub(crate) fn read_chunks(chunks: impl ChunkReader + 'static, path: &Path) -> Result<Reader, DocumentsError> {
    Ok(Reader { batches: Batches::of(chunks, path, None)?, rows: Vec::new().into_iter() })
}

impl Reader {
    /// Documents in the whole file or folder.
    pub fn total(&self) -> u64 {
        self.batches.total()
    }

    fn rows_of(&self, batch: &RecordBatch) -> Result<Vec<Document>, DocumentsError> {
        let path = self.batches.path();
        let column = |name: &'static str| Columns { batch, path }.strings(name);
        let scores = Columns { batch, path }.floats("language_score")?;
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
                    DocumentsError::column(path, "domain", problem)
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
            match self.batches.next()?.and_then(|batch| self.rows_of(&batch)) {
                Ok(rows) => self.rows = rows.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

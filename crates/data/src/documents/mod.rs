//! Clean documents as Parquet: the interface between curation and everything after it.
//!
//! Columns: `id, url, date, title, language, language_score, domain, license, source, author,
//! canonical, cluster, page_type, text`, and after them one 32-bit float column for everything that a filter measured; files
//! without `author`, `canonical`, `cluster` and `page_type` are read too. Rows are streamed both ways, so a file may be far larger
//! than memory.

mod reader;
mod writer;

pub(crate) use reader::read_chunks;
pub use reader::{Reader, read};
pub(crate) use writer::properties;
pub use writer::{Writer, write};

use crate::extract::PageType;
use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use herd_run::atomic::FileError;
use parquet::errors::ParquetError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use std::fs::File;

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
        let documents: Vec<_> = (0..256 * 2 + 7).map(document).collect();
        write(&path, documents.clone()).unwrap();
        let reader = read(&path).unwrap();
        assert_eq!(reader.total(), documents.len() as u64);
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), documents);
    }

    #[test]
    fn a_folder_of_files_is_read_in_the_order_of_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("documents.parquet");
        std::fs::create_dir(&folder).unwrap();
        let message = read(&folder).err().unwrap().to_string();
        assert!(message.contains("documents.parquet") && message.contains("no .parquet file"), "{message}");
        let documents: Vec<_> = (0..700).map(document).collect();
        for (part, from, to) in [("part-00001", 300, 300), ("part-00002", 300, 700), ("part-00000", 0, 300)] {
            write(&folder.join(part).with_extension("parquet"), documents[from..to].to_vec()).unwrap();
        }
        std::fs::write(folder.join("notes.txt"), "not asked for").unwrap();
        let reader = read(&folder).unwrap();
        assert_eq!(reader.total(), 700);
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), documents);
        std::fs::write(folder.join("part-00002.parquet"), "half").unwrap();
        assert!(read(&folder).err().unwrap().to_string().contains("part-00002.parquet"));
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

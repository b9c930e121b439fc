//! What tokenising needs of documents: only those columns are read, and texts stay where Parquet put them.

use crate::batches::Batches;
use crate::documents::{Columns, DocumentsError, Domain};
use arrow_array::{RecordBatch, StringArray};
use std::ops::Range;
use std::path::Path;

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

/// The documents of a file or folder, some at a time.
pub(crate) struct Reader(Batches);

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self, DocumentsError> {
        Ok(Self(Batches::open(path, Some(&COLUMNS.map(String::from)))?))
    }

    /// Those of a range that [`Batches::ranges`] gives.
    pub(crate) fn range(path: &Path, range: Range<u64>) -> Result<Self, DocumentsError> {
        Ok(Self(Batches::range(path, range, &COLUMNS)?))
    }
}

impl Iterator for Reader {
    type Item = Result<Texts, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.next()?.and_then(|batch| Texts::new(&batch, self.0.path())))
    }
}

//! Record batches of Parquet: of one file, or of all files of a folder in the order of their names, as they are written by
//! engines that work in parallel (`documents.parquet/part-00000.parquet` and so on).

use crate::documents::DocumentsError;
use arrow_array::RecordBatch;
use herd_run::atomic::FileError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use parquet::file::reader::ChunkReader;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Rows of one batch in memory; a document is some kilobytes.
const BATCH_ROWS: usize = 256;

/// Batches of a file or folder, one by one.
pub struct Batches {
    /// The file that is being read.
    path: PathBuf,
    current: ParquetRecordBatchReader,
    later: std::vec::IntoIter<PathBuf>,
    columns: Option<Vec<String>>,
    total: u64,
}

impl Batches {
    /// Opens a file, or a folder of files; with `columns` only those are read.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or is damaged; a folder without any; a column that the first file lacks.
    pub fn open(path: &Path, columns: Option<&[String]>) -> Result<Self, DocumentsError> {
        let files = files(path)?;
        let mut total = 0;
        for file in files.iter().skip(1) {
            total += rows(&builder(open_file(file)?, file)?);
        }
        let mut later = files.into_iter();
        let first = later.next().unwrap_or_else(|| path.to_path_buf());
        let one = Self::of(open_file(&first)?, &first, columns)?;
        Ok(Self { later, total: total + one.total, ..one })
    }

    /// Batches of anything that Parquet can be read from; `path` is only named in errors.
    pub fn of(
        chunks: impl ChunkReader + 'static,
        path: &Path,
        columns: Option<&[String]>,
    ) -> Result<Self, DocumentsError> {
        let builder = builder(chunks, path)?;
        let total = rows(&builder);
        let current = begin(builder, path, columns)?;
        let columns = columns.map(<[String]>::to_vec);
        Ok(Self { path: path.to_path_buf(), current, later: Vec::new().into_iter(), columns, total })
    }

    /// The row groups of a file or of all files of a folder, in order, as [`range`](Self::range) takes them.
    pub fn ranges(path: &Path) -> Result<Vec<(PathBuf, Range<u64>)>, DocumentsError> {
        let mut ranges = Vec::new();
        for file in files(path)? {
            let builder = builder(open_file(&file)?, &file)?;
            let begins = builder.metadata().row_groups().iter().map(begin_of);
            ranges.extend(begins.map(|at| (file.clone(), at..at + 1)));
        }
        Ok(ranges)
    }

    /// Batches of the row groups of a file that begin in a range of its bytes, with those of `columns` that are there.
    pub fn range(path: &Path, range: Range<u64>, columns: &[&str]) -> Result<Self, DocumentsError> {
        let builder = builder(open_file(path)?, path)?;
        let groups = builder.metadata().row_groups().iter().map(begin_of).enumerate();
        let groups: Vec<usize> = groups.filter(|(_, at)| range.contains(at)).map(|(n, _)| n).collect();
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
        let total = rows(&builder);
        let current = begin(builder.with_projection(mask).with_row_groups(groups), path, None)?;
        Ok(Self { path: path.to_path_buf(), current, later: Vec::new().into_iter(), columns: None, total })
    }

    /// Rows in all files.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The file of the batch that came last.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Iterator for Batches {
    type Item = Result<RecordBatch, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.current.next() {
                Some(Ok(batch)) => return Some(Ok(batch)),
                Some(Err(error)) => return Some(Err(DocumentsError::parquet(&self.path)(error.into()))),
                None => self.path = self.later.next()?,
            }
            let file = open_file(&self.path).and_then(|file| builder(file, &self.path));
            match file.and_then(|builder| begin(builder, &self.path, self.columns.as_deref())) {
                Ok(reader) => self.current = reader,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The byte of its file at which a row group begins.
fn begin_of(group: &RowGroupMetaData) -> u64 {
    group.columns().iter().map(|column| column.byte_range().0).min().unwrap_or(0)
}

/// The Parquet files that a path stands for.
fn files(path: &Path) -> Result<Vec<PathBuf>, DocumentsError> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(FileError::at("read", path))? {
        let file = entry.map_err(FileError::at("read", path))?.path();
        files.extend(file.extension().is_some_and(|e| e == "parquet").then_some(file));
    }
    files.sort();
    if files.is_empty() {
        let none = std::io::Error::new(std::io::ErrorKind::NotFound, "the folder holds no .parquet file");
        return Err(FileError::at("read", path)(none).into());
    }
    Ok(files)
}

fn open_file(path: &Path) -> Result<File, DocumentsError> {
    Ok(File::open(path).map_err(FileError::at("read", path))?)
}

fn builder<C: ChunkReader + 'static>(
    chunks: C,
    path: &Path,
) -> Result<ParquetRecordBatchReaderBuilder<C>, DocumentsError> {
    ParquetRecordBatchReaderBuilder::try_new(chunks).map_err(DocumentsError::parquet(path))
}

fn rows<C: ChunkReader + 'static>(builder: &ParquetRecordBatchReaderBuilder<C>) -> u64 {
    builder.metadata().file_metadata().num_rows().max(0) as u64
}

fn begin<C: ChunkReader + 'static>(
    mut builder: ParquetRecordBatchReaderBuilder<C>,
    path: &Path,
    columns: Option<&[String]>,
) -> Result<ParquetRecordBatchReader, DocumentsError> {
    if let Some(columns) = columns {
        let there: Vec<&str> = builder.schema().fields().iter().map(|f| f.name().as_str()).collect();
        if let Some(column) = columns.iter().find(|c| !there.contains(&c.as_str())) {
            let problem = format!("is missing; there are {}", there.join(", "));
            return Err(DocumentsError::column(path, column, problem));
        }
        let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().map(String::as_str));
        builder = builder.with_projection(mask);
    }
    builder.with_batch_size(BATCH_ROWS).build().map_err(DocumentsError::parquet(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{ArrayRef, StringArray, cast::AsArray};
    use parquet::arrow::ArrowWriter;
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    use parquet::file::properties::WriterProperties;
    use std::sync::Arc;

    /// Files of other programs come in all compressions; that of pandas is Snappy.
    #[test]
    fn every_compression_is_read() {
        let texts: Vec<String> = (0..1000).map(|n| format!("document {n} ").repeat(n % 50)).collect();
        let array: ArrayRef = Arc::new(StringArray::from(texts.clone()));
        let batch = RecordBatch::try_from_iter([("text", array)]).unwrap();
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::BROTLI(BrotliLevel::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::default()),
        ] {
            let properties = WriterProperties::builder()
                .set_compression(compression)
                .set_max_row_group_row_count(Some(300))
                .build();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("x.parquet");
            let file = File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();

            let read = |batches: Batches| -> Vec<String> {
                let all = batches.map(Result::unwrap);
                all.flat_map(|b| {
                    b.column(0).as_string::<i32>().iter().map(|t| t.unwrap().to_string()).collect::<Vec<_>>()
                })
                .collect()
            };
            assert_eq!(read(Batches::open(&path, None).unwrap()), texts, "{compression}");
            let ranges = Batches::ranges(&path).unwrap();
            assert_eq!(ranges.len(), 4);
            let parts =
                ranges.into_iter().map(|(file, range)| Batches::range(&file, range, &["text"]).unwrap());
            assert_eq!(parts.flat_map(read).collect::<Vec<_>>(), texts, "{compression}");
        }
    }
}

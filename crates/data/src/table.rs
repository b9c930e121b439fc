//! Rows of any Parquet or JSON Lines file as JSON objects: what labels, samples and statistics are read from.

use crate::documents::DocumentsError;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use herd_run::atomic::FileError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::RowGroupMetaData;
use serde_json::{Map, Number, Value};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

const BATCH_ROWS: usize = 256;

/// One row: values by column, in the file's order. What is null or not a number is `null`.
pub type Row = Map<String, Value>;

/// Rows of a file, one by one.
pub struct Rows {
    path: PathBuf,
    source: Source,
}

enum Source {
    Parquet { batches: ParquetRecordBatchReader, rows: std::vec::IntoIter<Row> },
    Lines { lines: std::io::Lines<Box<dyn BufRead + Send>>, number: usize, wanted: Option<Vec<String>> },
}

/// Opens a file; its name ends in `.parquet`, or it has one JSON object a line. With `columns` only those are read.
///
/// # Errors
///
/// A file that cannot be read; a column that a Parquet file does not have, with those that it has.
pub fn open(path: &Path, columns: Option<&[String]>) -> Result<Rows, DocumentsError> {
    let file = File::open(path).map_err(FileError::at("read", path))?;
    let is_parquet = path.extension().is_some_and(|e| e == "parquet");
    if !is_parquet {
        let wanted = columns.map(<[String]>::to_vec);
        let lines = (Box::new(BufReader::new(file)) as Box<dyn BufRead + Send>).lines();
        let source = Source::Lines { lines, number: 0, wanted };
        return Ok(Rows { path: path.to_path_buf(), source });
    }
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(DocumentsError::parquet(path))?;
    let there: Vec<String> = builder.schema().fields().iter().map(|f| f.name().clone()).collect();
    for column in columns.unwrap_or_default() {
        if !there.contains(column) {
            let problem = format!("is missing; there are {}", there.join(", "));
            return Err(DocumentsError::column(path, column, problem));
        }
    }
    let builder = match columns {
        Some(columns) => {
            let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().map(String::as_str));
            builder.with_projection(mask)
        }
        None => builder,
    };
    let batches = builder.with_batch_size(BATCH_ROWS).build().map_err(DocumentsError::parquet(path))?;
    Ok(Rows { path: path.to_path_buf(), source: Source::Parquet { batches, rows: Vec::new().into_iter() } })
}

/// Rows of JSON Lines; `path` is only named in errors.
pub(crate) fn lines(reader: Box<dyn BufRead + Send>, path: &Path) -> Rows {
    let source = Source::Lines { lines: reader.lines(), number: 0, wanted: None };
    Rows { path: path.to_path_buf(), source }
}

/// Rows of the row groups of a Parquet file that begin in a range of its bytes, with those of `columns` that are there.
pub(crate) fn open_range(path: &Path, range: Range<u64>, columns: &[&str]) -> Result<Rows, DocumentsError> {
    let file = File::open(path).map_err(FileError::at("read", path))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(DocumentsError::parquet(path))?;
    let begins =
        |group: &RowGroupMetaData| group.columns().iter().map(|c| c.byte_range().0).min().unwrap_or(0);
    let groups = builder.metadata().row_groups().iter().map(begins).enumerate();
    let groups: Vec<usize> = groups.filter(|(_, at)| range.contains(at)).map(|(n, _)| n).collect();
    let mask = ProjectionMask::columns(builder.parquet_schema(), columns.iter().copied());
    let builder = builder.with_projection(mask).with_row_groups(groups).with_batch_size(BATCH_ROWS);
    let batches = builder.build().map_err(DocumentsError::parquet(path))?;
    Ok(Rows { path: path.to_path_buf(), source: Source::Parquet { batches, rows: Vec::new().into_iter() } })
}

impl Iterator for Rows {
    type Item = Result<Row, DocumentsError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Parquet { batches, rows } => loop {
                if let Some(row) = rows.next() {
                    return Some(Ok(row));
                }
                let batch = match batches.next()? {
                    Ok(batch) => batch,
                    Err(error) => return Some(Err(DocumentsError::parquet(&self.path)(error.into()))),
                };
                let mut made = vec![Row::new(); batch.num_rows()];
                for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                    let Some(values) = values(column) else {
                        let problem = format!("has type {}, not text or number", column.data_type());
                        return Some(Err(DocumentsError::column(&self.path, field.name(), problem)));
                    };
                    for (row, value) in made.iter_mut().zip(values) {
                        row.insert(field.name().clone(), value);
                    }
                }
                *rows = made.into_iter();
            },
            Source::Lines { lines, number, wanted } => loop {
                let line = match lines.next()? {
                    Ok(line) => line,
                    Err(error) => return Some(Err(FileError::at("read", &self.path)(error).into())),
                };
                *number += 1;
                if line.trim().is_empty() {
                    continue;
                }
                let (path, line_number) = (self.path.clone(), *number);
                let problem =
                    |problem: String| Some(Err(DocumentsError::Line { path, line: line_number, problem }));
                return match serde_json::from_str(&line) {
                    Ok(Value::Object(mut row)) => {
                        if let Some(wanted) = wanted {
                            row.retain(|name, _| wanted.contains(name));
                        }
                        Some(Ok(row))
                    }
                    Ok(_) => problem("is no JSON object".into()),
                    Err(error) => problem(format!("is no JSON object: {error}")),
                };
            },
        }
    }
}

/// A 32-bit float as its shortest decimal, so that 0.9 is not 0.8999999761581421.
fn short(value: f32) -> Value {
    let value = if value.is_finite() { value.to_string().parse().ok() } else { None };
    value.and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

fn values(column: &ArrayRef) -> Option<Vec<Value>> {
    let rows = 0..column.len();
    macro_rules! numbers {
        ($type:ty) => {{
            let array = column.as_primitive::<$type>();
            rows.map(|n| if array.is_valid(n) { Value::from(array.value(n)) } else { Value::Null }).collect()
        }};
    }
    macro_rules! texts {
        ($array:expr) => {{
            let array = $array;
            rows.map(|n| if array.is_valid(n) { Value::from(array.value(n)) } else { Value::Null }).collect()
        }};
    }
    Some(match column.data_type() {
        DataType::Utf8 => texts!(column.as_string::<i32>()),
        DataType::LargeUtf8 => texts!(column.as_string::<i64>()),
        DataType::Utf8View => texts!(column.as_string_view()),
        DataType::Boolean => texts!(column.as_boolean()),
        DataType::Int8 => numbers!(Int8Type),
        DataType::Int16 => numbers!(Int16Type),
        DataType::Int32 => numbers!(Int32Type),
        DataType::Int64 => numbers!(Int64Type),
        DataType::UInt8 => numbers!(UInt8Type),
        DataType::UInt16 => numbers!(UInt16Type),
        DataType::UInt32 => numbers!(UInt32Type),
        DataType::UInt64 => numbers!(UInt64Type),
        DataType::Float64 => numbers!(Float64Type),
        DataType::Float32 => {
            let array = column.as_primitive::<Float32Type>();
            rows.map(|n| if array.is_valid(n) { short(array.value(n)) } else { Value::Null }).collect()
        }
        DataType::Null => vec![Value::Null; column.len()],
        _ => return None,
    })
}

//! Rows of any Parquet or JSON Lines file as JSON objects: what labels, samples and statistics are read from.

use crate::batches::Batches;
use crate::documents::DocumentsError;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use herd_run::atomic::FileError;
use serde_json::{Map, Number, Value};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One row: values by column, in the file's order. What is null or not a number is `null`.
pub type Row = Map<String, Value>;

/// Rows of a file, one by one.
pub struct Rows {
    path: PathBuf,
    source: Source,
}

enum Source {
    Parquet { batches: Batches, rows: std::vec::IntoIter<Row> },
    Lines { lines: std::io::Lines<Box<dyn BufRead + Send>>, number: usize, wanted: Option<Vec<String>> },
}

impl Source {
    fn parquet(batches: Batches) -> Self {
        Self::Parquet { batches, rows: Vec::new().into_iter() }
    }
}

/// Opens a file; its name ends in `.parquet` (it may be a folder of such files), or it has one JSON object a line. With
/// `columns` only those are read.
///
/// # Errors
///
/// A file that cannot be read; a column that a Parquet file does not have, with those that it has.
pub fn open(path: &Path, columns: Option<&[String]>) -> Result<Rows, DocumentsError> {
    if path.extension().is_some_and(|e| e == "parquet") {
        let batches = Batches::open(path, columns)?;
        return Ok(Rows { path: path.to_path_buf(), source: Source::parquet(batches) });
    }
    let file = File::open(path).map_err(FileError::at("read", path))?;
    let wanted = columns.map(<[String]>::to_vec);
    let lines = (Box::new(BufReader::new(file)) as Box<dyn BufRead + Send>).lines();
    Ok(Rows { path: path.to_path_buf(), source: Source::Lines { lines, number: 0, wanted } })
}

/// Rows of JSON Lines; `path` is only named in errors.
pub(crate) fn lines(reader: Box<dyn BufRead + Send>, path: &Path) -> Rows {
    let source = Source::Lines { lines: reader.lines(), number: 0, wanted: None };
    Rows { path: path.to_path_buf(), source }
}

/// Rows of the row groups of a Parquet file that begin in a range of its bytes, with those of `columns` that are there.
pub(crate) fn open_range(path: &Path, range: Range<u64>, columns: &[&str]) -> Result<Rows, DocumentsError> {
    let batches = Batches::range(path, range, columns)?;
    Ok(Rows { path: path.to_path_buf(), source: Source::parquet(batches) })
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
                    Err(error) => return Some(Err(error)),
                };
                let mut made = vec![Row::new(); batch.num_rows()];
                for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
                    let Some(values) = values(column) else {
                        let problem = format!("has type {}, not text or number", column.data_type());
                        return Some(Err(DocumentsError::column(batches.path(), field.name(), problem)));
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

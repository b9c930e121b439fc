//! Rows of an exchange: plain structs whose fields are columns of a Parquet file.

use crate::documents::{Columns, DocumentsError};
use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, StringArray, UInt32Array, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use std::sync::Arc;

/// A row. Its order is that of its fields, the first of which is the key by which rows find their reader.
pub trait Record: Ord + Clone + Send + Sized + 'static {
    /// Whether the key is the number of a document, so that the readers are its splits; else it is a hash.
    const BY_DOCUMENT: bool;
    /// What decides who reads the row.
    fn key(&self) -> u64;
    /// Bytes it takes in memory.
    fn size(&self) -> usize;
    /// Takes in a later row that says no more than a sum of both: an equal one, unless a record knows better.
    fn absorb(&mut self, later: &Self) -> bool {
        self == later
    }
    /// Columns of the file.
    fn schema() -> Arc<Schema>;
    /// Rows as columns.
    fn columns(rows: &[Self]) -> Vec<ArrayRef>;
    /// Columns as rows.
    fn rows(columns: &Columns) -> Result<Vec<Self>, DocumentsError>;
}

/// The type of a field.
pub trait Value: Sized {
    /// A column of it.
    type Array;
    /// Its type in files.
    const TYPE: DataType;
    /// Bytes outside the struct.
    fn size(&self) -> usize {
        0
    }
    /// The values of a field of all rows.
    fn column<R>(rows: &[R], field: impl Fn(&R) -> &Self) -> ArrayRef;
    /// The column in a file.
    fn find<'a>(columns: &Columns<'a>, name: &'static str) -> Result<&'a Self::Array, DocumentsError>;
    /// A value of a column.
    fn at(array: &Self::Array, row: usize) -> Self;
}

impl Value for u64 {
    type Array = UInt64Array;
    const TYPE: DataType = DataType::UInt64;
    fn column<R>(rows: &[R], field: impl Fn(&R) -> &Self) -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| *field(row))))
    }
    fn find<'a>(columns: &Columns<'a>, name: &'static str) -> Result<&'a Self::Array, DocumentsError> {
        columns.typed(name, "unsigned 64-bit", |array| array.as_primitive_opt::<UInt64Type>())
    }
    fn at(array: &Self::Array, row: usize) -> Self {
        array.value(row)
    }
}

impl Value for u32 {
    type Array = UInt32Array;
    const TYPE: DataType = DataType::UInt32;
    fn column<R>(rows: &[R], field: impl Fn(&R) -> &Self) -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| *field(row))))
    }
    fn find<'a>(columns: &Columns<'a>, name: &'static str) -> Result<&'a Self::Array, DocumentsError> {
        columns.typed(name, "unsigned 32-bit", |array| array.as_primitive_opt::<UInt32Type>())
    }
    fn at(array: &Self::Array, row: usize) -> Self {
        array.value(row)
    }
}

impl Value for String {
    type Array = StringArray;
    const TYPE: DataType = DataType::Utf8;
    fn size(&self) -> usize {
        self.len()
    }
    fn column<R>(rows: &[R], field: impl Fn(&R) -> &Self) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| field(row).as_str())))
    }
    fn find<'a>(columns: &Columns<'a>, name: &'static str) -> Result<&'a Self::Array, DocumentsError> {
        columns.strings(name)
    }
    fn at(array: &Self::Array, row: usize) -> Self {
        array.value(row).to_string()
    }
}

/// A field of a schema; no column of an exchange has holes.
pub fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, false)
}

/// Rows in a batch of any array.
pub fn count(columns: &Columns) -> usize {
    columns.batch.columns().first().map_or(0, |array| array.len())
}

/// Declares a [`Record`]: a struct whose first field is the `u64` key: a hash, or with `by document` the number of a
/// document. An `absorb` may follow the fields.
macro_rules! record {
    (@by document) => { true };
    ($(#[$doc:meta])* $name:ident $(by $by:ident)? {
        $(#[$first_doc:meta])* $first:ident: u64,
        $($(#[$field_doc:meta])* $field:ident: $kind:ty,)*
    } $(absorb($this:ident, $later:ident) $absorb:block)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name {
            $(#[$first_doc])* pub $first: u64,
            $($(#[$field_doc])* pub $field: $kind,)*
        }

        impl $crate::exchange::Record for $name {
            const BY_DOCUMENT: bool = false $(|| $crate::exchange::record!(@by $by))?;
            fn key(&self) -> u64 {
                self.$first
            }
            fn size(&self) -> usize {
                size_of::<Self>() $(+ $crate::exchange::record::Value::size(&self.$field))*
            }
            $(fn absorb(&mut self, $later: &Self) -> bool {
                let $this = self;
                $absorb
            })?
            fn schema() -> std::sync::Arc<arrow_schema::Schema> {
                use $crate::exchange::record::{Value, field};
                std::sync::Arc::new(arrow_schema::Schema::new(vec![
                    field(stringify!($first), <u64 as Value>::TYPE),
                    $(field(stringify!($field), <$kind as Value>::TYPE),)*
                ]))
            }
            fn columns(rows: &[Self]) -> Vec<arrow_array::ArrayRef> {
                use $crate::exchange::record::Value;
                vec![
                    <u64 as Value>::column(rows, |row| &row.$first),
                    $(<$kind as Value>::column(rows, |row| &row.$field),)*
                ]
            }
            fn rows(
                columns: &$crate::documents::Columns,
            ) -> Result<Vec<Self>, $crate::documents::DocumentsError> {
                use $crate::exchange::record::{Value, count};
                let $first = <u64 as Value>::find(columns, stringify!($first))?;
                $(let $field = <$kind as Value>::find(columns, stringify!($field))?;)*
                Ok((0..count(columns))
                    .map(|row| Self {
                        $first: <u64 as Value>::at($first, row),
                        $($field: <$kind as Value>::at($field, row),)*
                    })
                    .collect())
            }
        }
    };
}
pub(crate) use record;

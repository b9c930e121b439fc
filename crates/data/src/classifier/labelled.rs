//! Labelled texts from Parquet or JSON Lines.

use crate::documents::DocumentsError;
use crate::table;
use serde_json::Value;
use std::path::Path;

/// A text and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The text.
    pub text: String,
    /// The name of its class.
    pub label: String,
}

/// Reads the texts of a file with the labels that stand beside them; a number or a truth value is a label too. Rows
/// without a label are left out.
///
/// # Errors
///
/// A file that cannot be read, or a row whose text is no text, with its number.
pub fn read_labelled(
    path: &Path,
    text_column: &str,
    label_column: &str,
) -> Result<Vec<Labelled>, DocumentsError> {
    let columns = [text_column.to_string(), label_column.to_string()];
    let mut out = Vec::new();
    for (n, row) in table::open(path, Some(&columns))?.enumerate() {
        let mut row = row?;
        let label = match row.get(label_column) {
            Some(Value::String(label)) => label.clone(),
            Some(other @ (Value::Number(_) | Value::Bool(_))) => other.to_string(),
            _ => continue,
        };
        if label.is_empty() || label.contains(|c: char| c.is_whitespace() || c == '\0') {
            let problem = format!("holds '{label}' in row {}; a label is one word", n + 1);
            return Err(DocumentsError::column(path, label_column, problem));
        }
        let Some(Value::String(text)) = row.remove(text_column) else {
            let problem = format!("holds no text in row {}", n + 1);
            return Err(DocumentsError::column(path, text_column, problem));
        };
        out.push(Labelled { text, label });
    }
    Ok(out)
}

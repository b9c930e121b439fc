//! A setting whose value cannot work. The recipe loader turns its key into a file and line.

/// An impossible value of one recipe key.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("`{key}`: {problem}")]
pub struct SettingError {
    /// Dotted path of the key inside the recipe, such as `model.attention_heads`. A crate's own `validate` gives
    /// the path relative to its table; the loader prefixes the table's name with [`SettingError::within`].
    pub key: String,
    /// What is wrong and what would be right, such as `7 does not divide hidden_size 256; choose 1, 2, 4, 8, ...`.
    pub problem: String,
}

impl SettingError {
    /// A problem at a key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// The same problem, its key prefixed by the enclosing table.
    pub fn within(mut self, table: &str) -> Self {
        self.key = format!("{table}.{}", self.key);
        self
    }
}

use herd_run::atomic::FileError;
use herd_run::{Interrupted, SettingError};
use std::path::PathBuf;

/// Why a tokenizer or token shard cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A tokenizer file was read but is not what this program understands.
    #[error("{}: {problem}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, where, and what would be right.
        problem: String,
    },
    /// A token shard is truncated, corrupt or of another kind.
    #[error("{}: {problem}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// A vocabulary that contradicts itself.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// A chat template that does not compile, or refuses the dialog.
    #[error("chat template: {0}")]
    Template(String),
    /// A setting whose value cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Error {
    pub(crate) fn format(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Format { path: path.into(), problem: problem.into() }
    }

    pub(crate) fn shard(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Shard { path: path.into(), problem: problem.into() }
    }
}

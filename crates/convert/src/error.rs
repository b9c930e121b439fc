use herd_run::Interrupted;
use herd_run::atomic::FileError;
use std::path::PathBuf;

/// Why a checkpoint cannot be looked into or converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A GGUF file is damaged or of a kind that is not supported.
    #[error(transparent)]
    Gguf(#[from] herd_infer::Error),
    /// The weights of a folder are damaged or of a kind that is not supported.
    #[error(transparent)]
    Weights(#[from] herd_model::weights::WeightsError),
    /// The tokenizer cannot be read or has no equal in the other format.
    #[error(transparent)]
    Tokenizer(#[from] herd_tokenizer::Error),
    /// Something about this checkpoint.
    #[error("{}: {problem}", path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Error {
    pub(crate) fn at(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        Error::Checkpoint { path: path.into(), problem: problem.into() }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::File(FileError::at("write", "")(error))
    }
}

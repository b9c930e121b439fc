use std::path::PathBuf;

/// Why an evaluation ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user asked to stop; finished tasks are kept.
    #[error(transparent)]
    Interrupted(#[from] herd_run::Interrupted),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] herd_run::atomic::FileError),
    /// A setting whose value cannot work.
    #[error(transparent)]
    Setting(#[from] herd_run::SettingError),
    /// The model cannot be loaded.
    #[error(transparent)]
    Model(#[from] herd_model::weights::WeightsError),
    /// The tokenizer or a token shard cannot be used.
    #[error(transparent)]
    Tokens(#[from] herd_tokenizer::Error),
    /// The model cannot answer.
    #[error(transparent)]
    Infer(#[from] herd_infer::Error),
    /// The n-gram models cannot be trained.
    #[error(transparent)]
    NGram(#[from] crate::ngram::NGramError),
    /// An example of a file is not what the format asks for.
    #[error("{}, line {line}: {problem}", path.display())]
    Example {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// Model, tokenizer and shards do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// The model gives a probability that is not a number.
    #[error(
        "the model gives a log-probability that is not a number at {0}; its weights are damaged or diverged"
    )]
    NotANumber(String),
}

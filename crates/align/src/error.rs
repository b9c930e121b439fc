//! What can go wrong in post-training.

use herd_run::atomic::FileError;
use std::path::PathBuf;

/// An error of this crate. Each names the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record of the alignment data breaks a rule of the format.
    #[error("{}:{line}: {problem}", file.display())]
    Record {
        /// The JSONL file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file of the alignment data holds nothing that can be used.
    #[error("{}: {problem}", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
        /// What is missing and what to do.
        problem: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] herd_tokenizer::Error),
    /// A model cannot be read or written.
    #[error(transparent)]
    Weights(#[from] herd_model::weights::WeightsError),
    /// Nothing can be sampled.
    #[error(transparent)]
    Infer(#[from] herd_infer::Error),
    /// A checkpoint cannot be written, or belongs to another model.
    #[error(transparent)]
    Checkpoint(#[from] herd_train::checkpoint::Error),
    /// Models cannot be averaged.
    #[error(transparent)]
    Average(#[from] herd_train::AverageError),
    /// A setting does not fit the model or the data.
    #[error(transparent)]
    Setting(#[from] herd_run::SettingError),
    /// Training diverged.
    #[error(
        "align.{stage}, step {step}: {problem}; lower align.{stage}.train.learning_rates or raise warmup"
    )]
    Diverged {
        /// The sub-stage.
        stage: &'static str,
        /// The step, from 1.
        step: u64,
        /// What was not a number.
        problem: String,
    },
    /// A stop was asked for.
    #[error(transparent)]
    Interrupted(#[from] herd_run::Interrupted),
}

//! Why pre-training can end without a model.

use crate::trainer::NotFinite;
use crate::{checkpoint, loader};
use herd_model::weights;
use herd_run::SettingError;
use herd_run::atomic::FileError;
use std::path::PathBuf;

/// Why pre-training ended without a model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] herd_run::Interrupted),
    /// The card cannot be used.
    #[error(transparent)]
    Device(#[from] crate::device::DeviceError),
    /// A setting does not fit the model or the data.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The shards cannot be used.
    #[error(transparent)]
    Data(#[from] loader::Error),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] herd_tokenizer::Error),
    /// A checkpoint cannot be written, or belongs to another model.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Model weights cannot be written or read back.
    #[error(transparent)]
    Weights(#[from] weights::WeightsError),
    /// Snapshots cannot be averaged.
    #[error(transparent)]
    Average(#[from] crate::average::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The thread that prepares batches ended before the phase did.
    #[error("the thread that prepares batches died; run the same command again, and report this as a bug")]
    Feed,
    /// A loss or gradient was not a number and the policy says stop, or too many batches were skipped.
    #[error(
        "step {step}: {problem} ({skipped} batches left out so far). The weights before it are saved; its documents \
         are listed in {}. Lower the learning rate, remove the documents, or set pretrain.non_finite.policy = \"skip\"",
        report.display()
    )]
    NonFinite {
        /// The step, counted from 1.
        step: u64,
        /// What was not a number.
        problem: NotFinite,
        /// Batches left out, this one included.
        skipped: u32,
        /// File with the batch's documents.
        report: PathBuf,
    },
    /// The same, found when parameters were updated already.
    #[error(
        "step {step}: {problem}. With pretrain.optimizer.in_backward parameters were updated before that was known, so they \
         are lost; the last checkpoint is as it was, and the step's documents are listed in {}. Set in_backward = false and \
         give the same command again: the run goes on from that checkpoint with the same bits, and finds such a step before it \
         is applied",
        report.display()
    )]
    Applied {
        /// The step, counted from 1.
        step: u64,
        /// What was not a number.
        problem: NotFinite,
        /// File with the batch's documents.
        report: PathBuf,
    },
}

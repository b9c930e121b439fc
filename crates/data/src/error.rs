use crate::classifier::ModelError;
use crate::documents::DocumentsError;
use crate::funnel::Funnel;
use herd_run::atomic::FileError;
use herd_run::{Interrupted, SettingError};
use std::path::PathBuf;

/// Why curation stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of documents or rejects cannot be read or written.
    #[error(transparent)]
    Documents(#[from] DocumentsError),
    /// A classifier cannot be read or written.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The crawl holds no response at all.
    #[error("no response in {files} file(s): {problem}")]
    EmptyCrawl {
        /// Files that were read.
        files: usize,
        /// What was found in them.
        problem: String,
    },
    /// Every document was dropped.
    #[error(
        "no document is left after curation; documents in and out of each step:{funnel}\nloosen the rule that drops them, or look at {rejects}"
    )]
    NothingLeft {
        /// The account of all steps.
        funnel: Funnel,
        /// The file that says why each was dropped.
        rejects: String,
    },
    /// The work in a folder belongs to another recipe or input.
    #[error("{}: made with other settings or input; remove the folder, or name another output", path.display())]
    OtherPlan {
        /// The plan that is there.
        path: PathBuf,
    },
    /// A task that cannot be done.
    #[error("step `{step}` {problem} (`herd data next` says what is to be done)")]
    Task {
        /// The step.
        step: String,
        /// Why not.
        problem: String,
    },
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

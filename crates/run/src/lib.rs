//! What every stage of a run needs and no stage owns: files that are complete or absent, progress, a clean
//! interruption, settings errors that name their key, content hashes, and the manifest that lets a second run do
//! only what is missing or changed.
//!
//! This crate stands below all others and knows nothing of models or data.

pub mod atomic;
pub mod hash;
mod interrupt;
mod manifest;
pub mod memory;
mod progress;
pub mod random;
mod setting;

pub use interrupt::{Interrupted, Stop};
pub use manifest::{Manifest, ManifestError, StageRecord, StageState};
pub use progress::{Progress, Task, Verbosity};
pub use random::Random;
pub use setting::SettingError;

/// What a stage is given besides its settings and inputs: where to report progress and how to learn that the user
/// wants to stop. Cheap to clone; safe to share between threads.
#[derive(Clone, Default)]
pub struct Context {
    /// Progress bars on a terminal, plain lines when piped.
    pub progress: Progress,
    /// Raised by Ctrl-C; long loops call [`Stop::check`] between units of work that are safe to stop after.
    pub stop: Stop,
}

impl Context {
    /// A context that prints nothing and is never interrupted, for tests and library use.
    pub fn quiet() -> Self {
        Self::default()
    }
}

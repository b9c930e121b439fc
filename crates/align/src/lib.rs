//! Post-training (SPEC POST-1..7): from a pre-trained model and preference data to a reward model and a chat model.
//!
//! A round is: reward model on the pre-trained checkpoint, rejection sampling from the best policy so far, supervised
//! fine-tuning of the pre-trained model, direct preference optimisation, each with averages of runs and snapshots.
//! [`run`] does the rounds and can be killed at any moment.
//!
//! - [`records`] reads and checks the JSONL files, [`examples`] turns them into tokens with what is learned marked.
//! - [`pack`] lays dialogs, and prompts with all their responses, into rows without padding.
//! - [`loss`] holds the losses as plain functions, equal to TRL's in value and gradient.
//! - [`reward`] is the reward model.

mod dpo;
mod error;
pub mod examples;
#[cfg(test)]
mod golden;
pub mod loss;
mod optimize;
pub mod pack;
mod quality;
pub mod records;
mod rejection;
pub mod reward;
mod round;
mod settings;
mod sft;
mod summary;

pub use error::Error;
pub use quality::{QualitySettings, train_quality};
pub use rejection::{Choice, Sampled, SamplingSummary};
pub use round::run;
pub use settings::{DpoSettings, Optimization, RejectionSettings, RewardSettings, Settings, SftSettings};
pub use summary::{Accuracy, DpoSummary, Interval, RewardSummary, RoundSummary, Sample, SftSummary, Summary};

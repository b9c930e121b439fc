//! Post-training: preference data, reward model, rejection sampling, SFT, DPO, averaging.

mod dpo;
mod error;
pub mod examples;
#[cfg(test)]
mod golden;
pub mod loss;
mod optimize;
pub mod pack;
mod random;
pub mod records;
pub mod reward;
mod settings;
mod sft;

pub use error::Error;
pub use settings::{DpoSettings, Optimization, RejectionSettings, RewardSettings, Settings, SftSettings};

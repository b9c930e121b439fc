//! Pre-training: optimizer, schedules, loader, trainer, checkpoints (SPEC TRAIN-1, 2, 3, DATA-8, INFRA-6).
//!
//! - [`pretrain::run`] is the stage: token shards in, a base model out, resumable at any moment with the same bits.
//! - [`AdamW`], [`Schedule`], [`checkpoint`], [`metrics`] and [`average`] serve post-training as well.
//! - [`loader`] decides which tokens a step sees, as a pure function of the seed and a small state.
//! - [`needle`] makes the needle-in-a-haystack task, for training and for measuring recall.

mod adamw;
mod average;
pub mod bench;
mod card_moments;
pub mod checkpoint;
pub mod device;
pub mod held_out;
pub mod loader;
pub mod metrics;
pub mod moments;
pub mod needle;
pub mod packing;
pub mod pretrain;
mod schedule;
pub mod tensorboard;
pub mod trainer;
mod update;

pub use adamw::{AdamW, AdamWSettings, NonFinite, StepInBackward, StepStats};
pub use average::{Error as AverageError, average};
pub use device::{Device, DeviceError, Precision};
pub use pretrain::{Error, Settings, Summary, run};
pub use schedule::{BatchGrowth, BatchStage, DOMAINS, Mix, MixStage, Schedule};

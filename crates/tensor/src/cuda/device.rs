//! The device that a user asks for.

use super::{Card, CardError};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The processor or a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA card that is visible (`CUDA_VISIBLE_DEVICES`).
    Cuda,
}

/// A card cannot be used.
#[derive(Debug)]
pub struct DeviceError(pub CardError);

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device `cuda` cannot be used: {}", self.0)
    }
}

impl std::error::Error for DeviceError {}

impl From<CardError> for DeviceError {
    fn from(error: CardError) -> Self {
        Self(error)
    }
}

impl Device {
    /// Whether it is the processor.
    pub fn is_cpu(&self) -> bool {
        *self == Device::Cpu
    }

    /// Opens the card; `None` for the processor.
    ///
    /// # Errors
    /// What is missing, and how to get it.
    pub fn open(self) -> Result<Option<Card>, DeviceError> {
        match self {
            Device::Cpu => Ok(None),
            Device::Cuda => Ok(Some(Card::open(0)?)),
        }
    }
}

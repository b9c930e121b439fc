//! Where to train, as a recipe or a command says it: `device` and `dtype`.

use herd_tensor::Params;
use herd_tensor::cuda::{self, DType};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `cpu`, `cuda`, or `cuda:1` for the second card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Device(pub cuda::Device);

impl Device {
    /// Whether it is this machine's processor.
    pub fn is_cpu(&self) -> bool {
        self.0 == cuda::Device::Cpu
    }
}

impl FromStr for Device {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self)
    }
}

impl TryFrom<String> for Device {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Device> for String {
    fn from(device: Device) -> Self {
        device.to_string()
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Type of activations and of the weights that products read; weights, gradients and sums are kept in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// 32 bits: all that the CPU does.
    F32,
    /// bf16: what a card does unless told.
    Bf16,
}

impl FromStr for ComputeType {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("there are f32 and bf16".into()),
        }
    }
}

/// A device and the type it computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The device.
    pub device: Device,
    /// What it computes in; what is natural for it if absent.
    pub dtype: Option<ComputeType>,
}

impl Place {
    /// The type, with what is natural filled in.
    pub fn dtype(&self) -> DType {
        match self.dtype {
            Some(ComputeType::F32) => DType::F32,
            Some(ComputeType::Bf16) => DType::Bf16,
            None if self.device.is_cpu() => DType::F32,
            None => DType::Bf16,
        }
    }

    /// Moves parameters there: gradients, moments and activations will follow.
    pub fn take(&self, params: &mut Params) -> Result<(), cuda::Error> {
        params.to_device(self.device.0, self.dtype())
    }
}

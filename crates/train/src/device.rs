//! Where a model is trained.

use herd_tensor::cuda::DType;
pub use herd_tensor::cuda::{Device, DeviceError};
use serde::{Deserialize, Serialize};

/// What activations are computed in on a card. Weights, gradients and moments are f32 either way; the processor always
/// computes in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16, with sums in f32.
    #[default]
    Bf16,
    /// f32.
    F32,
}

impl Precision {
    /// As the engine names it.
    pub fn dtype(self) -> DType {
        match self {
            Precision::Bf16 => DType::Bf16,
            Precision::F32 => DType::F32,
        }
    }
}

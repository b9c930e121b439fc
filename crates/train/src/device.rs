//! Where a model is trained.

use herd_tensor::cuda::{Card, DType};
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
    /// f32, with the operands of matrix products rounded to TF32, as tensor cores take them.
    Tf32,
}

impl Precision {
    /// As the engine names it.
    pub fn dtype(self) -> DType {
        match self {
            Precision::Bf16 => DType::Bf16,
            Precision::F32 | Precision::Tf32 => DType::F32,
        }
    }

    /// Tells a card how it is to multiply; before parameters are moved there.
    pub fn set_on(self, card: &Card) {
        card.set_tf32(self == Precision::Tf32);
    }

    /// A card's peak in it, operations a second; `None` for one that is not known.
    pub fn peak_flops(self, card: &Card) -> Option<f64> {
        match self {
            // Half of that in bf16, as on every card of the list.
            Precision::Tf32 => Some(card.peak_flops(DType::Bf16)? / 2.0),
            Precision::Bf16 | Precision::F32 => card.peak_flops(self.dtype()),
        }
    }
}

//! The optimizer's two moments of every parameter, in f32 or in bf16.

use half::bf16;
use herd_tensor::{Flat, Params};
use serde::{Deserialize, Serialize};

/// What moments are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MomentType {
    /// As they are computed: 8 bytes a parameter.
    #[default]
    F32,
    /// Rounded at random, so that nothing is lost on average: 4 bytes a parameter.
    Bf16,
}

/// First and second moments of one type, laid out as the parameters.
pub struct Pair<T> {
    /// Running means of the gradient.
    pub first: Flat<T>,
    /// Running means of its square.
    pub second: Flat<T>,
}

/// First and second moments.
pub enum Moments {
    /// In f32.
    F32(Pair<f32>),
    /// In bf16.
    Bf16(Pair<bf16>),
}

impl Moments {
    /// Zeros for parameters, where these lie; in the host's memory they take some only where they are written.
    pub fn new(kind: MomentType, params: &Params) -> Self {
        let like = params.buffer();
        match kind {
            MomentType::F32 => {
                Self::F32(Pair { first: Flat::zeros_like(like), second: Flat::zeros_like(like) })
            }
            MomentType::Bf16 => {
                Self::Bf16(Pair { first: Flat::zeros_like(like), second: Flat::zeros_like(like) })
            }
        }
    }

    /// Both in f32, first and second.
    pub fn widened(&self) -> [Vec<f32>; 2] {
        match self {
            Self::F32(pair) => [pair.first.to_vec(), pair.second.to_vec()],
            Self::Bf16(pair) => [&pair.first, &pair.second].map(|m| m.iter().map(|x| x.to_f32()).collect()),
        }
    }
}

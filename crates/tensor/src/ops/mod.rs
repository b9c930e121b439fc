//! The operators, one file each: formula and shapes on top, forward and backward side by side.

mod add;
mod attention;
mod cross_entropy;
mod embedding;
mod linear;
mod logprobs;
mod rms_norm;
mod rope;
mod select_rows;
mod swiglu;

pub use attention::{Attention, AttentionShape};
pub(crate) use cross_entropy::counted_rows;

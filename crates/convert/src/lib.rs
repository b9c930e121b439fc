//! Looks into checkpoints and converts them: Hugging Face folders and GGUF files, in both directions, with
//! quantisation.
//!
//! - [`Checkpoint`] opens either and gives every tensor of a Llama by one name and in one order of rows.
//! - [`inspect`] tells what is in a checkpoint of any architecture.
//! - [`convert()`] writes one in another format or number type, one stretch of a tensor at a time.
//! - [`quantise`] has the formats: the same blocks as llama.cpp's, found by least squares where it does so.

mod checkpoint;
mod convert;
mod error;
mod gguf;
pub mod inspect;
pub mod logits;
mod parts;
pub mod quantise;
mod safetensors;

pub use checkpoint::{Checkpoint, Format, StoredTensor, TensorKind};
pub use convert::{Summary, Target, convert};
pub use error::Error;

//! The Llama 3 model: its configuration, its forward pass on the tape, and its weights in Hugging Face form.
//!
//! [`Llama`] reads like the formulas of the paper (SPEC MODEL-1) and knows nothing of devices or parallelism; the
//! operators of `herd-tensor` do the work. [`weights`] is the only place that knows Hugging Face's tensor names.

mod config;
mod files;
mod llama;
mod settings;
pub mod weights;

pub use config::{LlamaConfig, RopeScaling, TorchDtype};
pub use files::{StoredTensor, TensorFiles, TensorSlot};
pub use llama::{Batch, Head, Layer, Llama};
pub use safetensors::Dtype as TensorType;
pub use settings::Settings;

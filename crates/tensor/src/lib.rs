//! The engine: tensors on pooled buffers, flat parameters and gradients, a tape of coarse fused operators, and the
//! kernels below them.
//!
//! ```
//! use herd_tensor::{Grads, Init, ParamSpec, Params, Tape};
//!
//! let mut params = Params::new(vec![
//!     ParamSpec::new("embed", &[16, 8], Init::Normal { std: 0.02 }),
//!     ParamSpec::new("head", &[16, 8], Init::Normal { std: 0.02 }),
//! ]);
//! params.initialize(1);
//! let (embed, head) = (params.id("embed").unwrap(), params.id("head").unwrap());
//! let mut grads = Grads::new(&params);
//!
//! let mut tape = Tape::new(&params);
//! let hidden = tape.embedding(embed, &[3, 1, 4]);
//! let loss = tape.cross_entropy_backward(hidden, head, &[1, 4, 1], &[1.0; 3], &mut grads);
//! assert!(loss > 0.0 && grads.of(head).iter().any(|g| *g != 0.0));
//! ```
//!
//! **Shapes.** A batch of sequences is `n` rows; where documents begin and end is said by [`Segments`], never by a
//! dense mask. Tensors are contiguous, row-major f32.
//!
//! **Same bits.** Work is cut into pieces by the problem, never by the number of threads, and every sum has one
//! order. So results are the same bits in a rayon pool of any size (on one instruction set, see [`isa`]).
//!
//! **Memory.** Buffers go back to a pool when their last tensor is dropped; a training step after the first asks the
//! system for nothing large. The tape frees activations while it walks back, and outputs that are cheap to compute
//! again (normalisation, SwiGLU) are not kept at all.
//!
//! **Errors.** This crate is called by model code with shapes it has chosen itself, so a wrong shape is a bug of the
//! caller: it panics with a message that names the operator and both shapes. Nothing here reads outside input.

pub mod cuda;
mod flat;
mod grads;
pub mod isa;
pub mod kernels;
mod ops;
mod params;
pub mod peak;
pub mod pool;
pub mod profile;
mod random;
pub mod reference;
mod rope;
mod segments;
mod tape;
mod tensor;
mod walk;

pub use flat::Flat;
pub use grads::{Complete, Grads, Rows};
pub use ops::{Attention, AttentionShape};
pub use params::{Init, ParamId, ParamSpec, Params};
pub use random::CounterRng;
pub use rope::{Llama3Scaling, Rope, RopeTable};
pub use segments::{Segment, Segments};
pub use tape::{Tape, Var};
pub use tensor::Tensor;
pub use walk::Walk;

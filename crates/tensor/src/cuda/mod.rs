//! NVIDIA cards: which libraries and cards this machine has, and a card in use. Nothing is linked: every library is
//! opened at run time, so a program built without a toolkit finds the card of the machine it is copied to, and one
//! without a card still runs.
//!
//! [`Card`] is a context with one stream, its memory (`arena`, [`CardBuffer`]), its kernels (`kernels/`, compiled by
//! `compile`), matrix products by cuBLASLt (`products`) and attention by cuDNN (`cudnn`). `ops/` holds the card's body of
//! each operator, one file beside the CPU's name.
//!
//! `kernels/check/` compiles the kernels for three generations of cards and runs their sources on the processor.

mod adamw;
mod arena;
mod buffer;
mod cached;
mod calls;
mod card;
mod compile;
pub(crate) mod cudnn;
mod driver;
mod error;
mod library;
mod ops;
mod params;
mod products;
mod staging;
mod system;

pub use adamw::{CardAdamW, CardReport, CardRule};
pub use arena::CardUsage;
pub use buffer::{CardBuffer, DType};
pub use card::Card;
pub use cudnn::{Compiled, CudnnReport, CudnnUse, compile_without_card};
pub use driver::{CardInfo, Driver};
pub use error::CardError;
pub use library::{Kind, Library, Missing, search_folders};
pub use params::CardParams;

pub(crate) use cached::Cached;
pub(crate) use card::{Arg, Grid, THREADS};
pub(crate) use cudnn::CardBatch;
pub(crate) use error::expect;
pub(crate) use ops::CardTiles;
pub(crate) use products::{Mat, Product};

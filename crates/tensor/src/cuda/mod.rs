//! NVIDIA cards: which libraries and cards this machine has, and a card in use. Nothing is linked: every library is
//! opened at run time, so a program built without a toolkit finds the card of the machine it is copied to, and one
//! without a card still runs.
//!
//! [`Card`] is a context with one stream, its memory (`arena`, [`CardBuffer`]), its kernels (`kernels/`, compiled by
//! `compile`, asked for by `launch`) matrix products by cuBLASLt (`products`; in 8 bits `e4m3`) and attention by
//! cuDNN (`cudnn`). What the stream was asked for can be
//! kept as a [`Graph`] and asked for again as a whole. `ops/` holds the card's body of each operator, one file
//! beside the CPU's name. Who needs other work of a card, as generation does, puts its kernels beside those of the
//! operators and asks for them by [`Card::launch`] and [`Card::product`].
//!
//! `kernels/check/` compiles the kernels for three generations of cards and runs their sources on the processor.

mod adamw;
mod algorithms;
mod arena;
mod buffer;
mod cached;
mod calls;
mod card;
mod compile;
pub(crate) mod cudnn;
mod device;
mod driver;
mod e4m3;
mod error;
mod feed;
mod graph;
mod launch;
mod library;
mod ops;
mod params;
mod pass;
mod products;
mod staging;
mod station;
mod stream;
mod system;

pub use adamw::{CardAdamW, CardReport, CardRule};
pub use arena::CardUsage;
pub use buffer::{CardBuffer, DType};
pub use card::Card;
pub use cudnn::{Compiled, CudnnReport, CudnnUse, compile_without_card};
pub use device::{Device, DeviceError};
pub use driver::{CardInfo, Driver};
pub use e4m3::{E4m3Products, decode_e4m3};
pub use error::CardError;
pub use graph::Graph;
pub use launch::{Arg, Grid, THREADS};
pub use library::{Kind, Library, Missing, search_folders};
pub use params::CardParams;
pub use pass::{Pass, PassUsage};
pub use products::{Element, Mat, Product, Scales};
pub use staging::CardDownload;
pub use stream::DEPENDENT;

pub(crate) use cached::Cached;
pub(crate) use cudnn::CardBatch;
pub(crate) use error::expect;
pub(crate) use ops::CardTiles;

//! NVIDIA cards: which libraries and cards this machine has. Nothing is linked: every library is opened at run time, so
//! a program built without a toolkit finds the card of the machine it is copied to, and one without a card still runs.
//!
//! Nothing computes on a card yet: tensors on it, matrix products, attention and the launches are missing. The sources
//! of the row-wise kernels are in `kernels/`, one file beside each CPU operator's name; `kernels/check/` compiles them
//! for three generations of cards and runs their arithmetic on the processor against plain f64 loops.

mod card;
mod library;
mod system;

pub use card::{Card, Driver};
pub use library::{Kind, Library, Missing, search_folders};

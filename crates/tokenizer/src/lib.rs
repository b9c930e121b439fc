//! Byte-level BPE as Llama 3 uses it: train, encode, decode, the chat format, and token shards on disk.
//!
//! - [`Tokenizer`] reads a Hugging Face `tokenizer.json` or a tiktoken rank file and gives exactly their ids.
//! - [`train`] learns merges from text, with the same merges as Hugging Face's `BpeTrainer`.
//! - [`chat`] turns a dialog into tokens and says which of them a model is to learn.
//! - [`shard`] stores tokenised documents for training.

mod bpe;
pub mod chat;
mod classes;
mod error;
mod format;
mod hashing;
pub mod shard;
mod special;
mod split;
mod stream;
mod tokenizer;
pub mod train;

pub use error::Error;
pub use special::{SPECIAL_COUNT, Specials, special_names};
pub use split::{Pieces, pieces};
pub use stream::TokenStream;
pub use tokenizer::Tokenizer;

//! BPE as Llama 3 and Llama 2 use it: train, encode, decode, the chat format, and token shards on disk.
//!
//! - [`Tokenizer`] reads a Hugging Face `tokenizer.json`, a tiktoken rank file, or the tokenizer inside a GGUF file,
//!   and gives exactly their ids: byte-level BPE under several split rules, and SentencePiece's BPE of Llama 2.
//! - [`train`] learns merges from text, with the same merges as Hugging Face's `BpeTrainer`.
//! - [`chat`] turns a dialog into tokens and says which of them a model is to learn.
//! - [`shard`] stores tokenised documents for training.

mod added;
mod bpe;
pub mod chat;
mod error;
mod format;
mod hashing;
mod large_pages;
mod parallel;
mod sentence_piece;
pub mod shard;
mod special;
mod split;
mod stream;
mod tokenizer;
pub mod train;
mod vocabulary;

pub use error::Error;
pub use format::GgufTokenizer;
pub use parallel::TokenParts;
pub use special::{SPECIAL_COUNT, Specials, special_names};
pub use split::{Pieces, pieces};
pub use stream::TokenStream;
pub use tokenizer::Tokenizer;
pub use vocabulary::EntryKind;

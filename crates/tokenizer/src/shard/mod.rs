//! Token shards: the documents of one domain as token ids in one file, with their boundaries.
//!
//! ```text
//! header   "HERDTOK1", u32 bytes per token (2 or 4), u32 vocabulary size
//! tokens   2 or 4 bytes each (2 if the vocabulary has at most 65,536 ids), then zeros up to a multiple of 8
//! index    per document: u64 tokens up to its end, u64 text bytes up to its end
//! footer   u64 tokens, u64 documents, BLAKE3 of the tokens, BLAKE3 of header, index and the counts, "HERDEND1"
//! ```
//! All numbers are little-endian. The footer comes last, so a file that was cut short says so.

mod index;
mod reader;
mod writer;

pub use index::{DomainShards, FileStats, ShardIndex};
pub use reader::{Document, TokenShard};
pub use writer::TokenShardWriter;

const MAGIC: &[u8; 8] = b"HERDTOK1";
const END: &[u8; 8] = b"HERDEND1";
const HEADER: usize = 16;
const FOOTER: usize = 8 + 8 + 32 + 32 + 8;

/// Bytes per stored token.
fn token_width(vocab_size: usize) -> usize {
    if vocab_size <= 1 << 16 { 2 } else { 4 }
}

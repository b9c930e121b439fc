//! Exact byte-pair encoding of one piece of text.

mod cache;
mod merge;
mod vocabulary;

pub(crate) use cache::Cache;
pub(crate) use merge::{Merge, MergeTable, Scratch};
pub(crate) use vocabulary::Vocabulary;

use crate::Error;

/// The merges of a vocabulary, ready to encode.
pub(crate) struct Bpe {
    vocabulary: Vocabulary,
    merges: MergeTable,
    byte_ids: [u32; 256],
    /// A piece that is a token is that token, whatever the merges would make of it (as Llama 3 and tiktoken do).
    whole_pieces: bool,
}

impl Bpe {
    pub(crate) fn new(vocabulary: Vocabulary, merges: MergeTable, whole_pieces: bool) -> Result<Self, Error> {
        let mut byte_ids = [0; 256];
        for byte in 0..=u8::MAX {
            byte_ids[usize::from(byte)] = vocabulary.id(&[byte]).ok_or_else(|| {
                Error::Vocabulary(format!(
                    "no token for byte 0x{byte:02x}; a byte-level vocabulary has all 256"
                ))
            })?;
        }
        Ok(Self { vocabulary, merges, byte_ids, whole_pieces })
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(crate) fn merges(&self) -> &MergeTable {
        &self.merges
    }

    pub(crate) fn whole_pieces(&self) -> bool {
        self.whole_pieces
    }

    /// Appends the tokens of one piece.
    #[inline]
    pub(crate) fn encode_piece(&self, piece: &[u8], cache: &mut Cache, out: &mut Vec<u32>) {
        if cache.get(piece, out) {
            return;
        }
        let start = out.len();
        match self.vocabulary.id(piece) {
            Some(id) if self.whole_pieces => out.push(id),
            _ => self.merges.encode(&self.byte_ids, piece, &mut cache.scratch, out),
        }
        cache.insert(piece, &out[start..]);
    }
}

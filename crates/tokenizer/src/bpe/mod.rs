//! Exact byte-pair encoding.

mod borders;
mod cache;
mod merge;
mod vocabulary;

pub(crate) use cache::Cache;
pub(crate) use merge::{Merge, Scratch};
pub(crate) use vocabulary::Vocabulary;

use crate::classes::Classes;
use crate::split::piece_end;
use crate::{Error, classes};
use borders::Borders;
use cache::{KEY_BYTES, Key};
use merge::MergeTable;

/// Pieces that are looked up together.
const BATCH: usize = 64;

/// The merges of a vocabulary, ready to encode.
pub(crate) struct Bpe {
    vocabulary: Vocabulary,
    merges: MergeTable,
    /// A piece that is a token is that token, whatever the merges would make of it (as Llama 3 and tiktoken do).
    whole_pieces: bool,
    /// Tokens that merging their bytes does not make; only `whole_pieces` gives them. In ascending order.
    irregular: Vec<u32>,
    borders: Borders,
    classes: &'static Classes,
}

impl Bpe {
    /// # Errors
    /// A byte that is no token.
    pub(crate) fn new(vocabulary: Vocabulary, merges: Vec<Merge>, whole_pieces: bool) -> Result<Self, Error> {
        let mut byte_ids = [0; 256];
        for byte in 0..=u8::MAX {
            byte_ids[usize::from(byte)] = vocabulary.id(&[byte]).ok_or_else(|| {
                Error::Vocabulary(format!(
                    "no token for byte 0x{byte:02x}; a byte-level vocabulary has all 256"
                ))
            })?;
        }
        let merges = MergeTable::new(merges, byte_ids);
        let mut scratch = Scratch::default();
        let mut merged = Vec::new();
        let irregular = (0..vocabulary.len() as u32).filter(|&id| {
            merged.clear();
            merges.encode(vocabulary.bytes(id), &mut scratch, &mut merged);
            merged != [id]
        });
        let irregular = irregular.collect();
        let borders = Borders::new((0..vocabulary.len() as u32).map(|id| vocabulary.bytes(id)));
        let classes = &classes::CLASSES;
        Ok(Self { vocabulary, merges, whole_pieces, irregular, borders, classes })
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

    /// Appends the tokens of a text.
    ///
    /// In batches and three steps, so that the processor waits for many places of the cache at once instead of for
    /// one after the other.
    pub(crate) fn encode(&self, text: &str, cache: &mut Cache, out: &mut Vec<u32>) {
        let text = text.as_bytes();
        let mut ends = [0; BATCH];
        let mut keys = [(Key::default(), 0); BATCH];
        let mut start = 0;
        while start < text.len() {
            let mut count = 0;
            let mut at = start;
            while count < BATCH && at < text.len() {
                at = piece_end(self.classes, text, at);
                ends[count] = at;
                count += 1;
            }
            at = start;
            for (key, &end) in keys.iter_mut().zip(&ends[..count]) {
                if end - at <= KEY_BYTES {
                    key.0 = Key::new(text, at, end);
                    key.1 = key.0.hash();
                }
                at = end;
            }
            for (&(key, hash), &end) in keys.iter().zip(&ends[..count]) {
                if end - start > KEY_BYTES {
                    self.encode_long(text, start, end, cache, out);
                } else if !cache.get(key, hash, out) {
                    self.encode_unknown(&text[start..end], (key, hash), true, cache, out);
                }
                start = end;
            }
        }
    }

    /// A piece, or with `whole` false a part of one between borders, that fits a key and is not in the cache.
    #[cold]
    #[inline(never)]
    fn encode_unknown(
        &self,
        piece: &[u8],
        (key, hash): (Key, u64),
        whole: bool,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) {
        let from = out.len();
        match self.vocabulary.short_id(key, hash) {
            Some(id) if self.irregular.binary_search(&id).is_err() => out.push(id),
            // As a piece it is this token, as a part of one it is not: the cache cannot tell, so it is not asked.
            Some(id) if whole && self.whole_pieces => return out.push(id),
            Some(_) => return self.merges.encode(piece, &mut cache.scratch, out),
            None => self.merges.encode(piece, &mut cache.scratch, out),
        }
        cache.insert(key, hash, &out[from..]);
    }

    /// A piece that fits no key: cut at its borders.
    #[inline(never)]
    fn encode_long(&self, text: &[u8], start: usize, end: usize, cache: &mut Cache, out: &mut Vec<u32>) {
        let mut from = start;
        while from < end {
            let to = self.borders.next(text, from, end);
            let whole = to - from == end - start;
            let part = &text[from..to];
            if part.len() <= KEY_BYTES {
                let key = Key::new(text, from, to);
                let hash = key.hash();
                if !cache.get(key, hash, out) {
                    self.encode_unknown(part, (key, hash), whole, cache, out);
                }
            } else if !cache.get_long(part, out) {
                let at = out.len();
                match self.vocabulary.id(part) {
                    Some(id) if self.irregular.binary_search(&id).is_err() => out.push(id),
                    Some(id) if whole && self.whole_pieces => {
                        out.push(id);
                        from = to;
                        continue;
                    }
                    _ => self.merges.encode(part, &mut cache.scratch, out),
                }
                cache.insert_long(part, &out[at..]);
            }
            from = to;
        }
    }
}

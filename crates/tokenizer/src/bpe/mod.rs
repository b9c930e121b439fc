//! Exact byte-pair encoding.

mod borders;
mod cache;
mod merge;
mod vocabulary;

pub(crate) use cache::Cache;
pub(crate) use merge::{Merge, MergeTable, NONE, Scratch};
pub(crate) use vocabulary::Vocabulary;

use crate::split::{CLASSES, Classes, Split, llama3_piece_ends};
pub(crate) use borders::Borders;
use cache::{INLINE, KEY_BYTES, Key};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Pieces that are looked up together.
const BATCH: usize = 256;

/// What becomes of bytes that the vocabulary has no token for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MissingBytes {
    /// They are left out before merging, so what stands around them may merge (Hugging Face).
    Skipped,
    /// They are left out after merging (llama.cpp).
    Dropped,
    /// Each is this token, with `fuse` each run of them (Hugging Face's `unk_token`).
    Unknown { id: u32, fuse: bool },
}

/// Rules of encoding besides the merges.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) split: Split,
    /// A piece that is a token is that token, whatever the merges would make of it (as Llama 3 and tiktoken do).
    pub(crate) whole_pieces: bool,
    pub(crate) missing: MissingBytes,
}

impl Rules {
    /// Those of Llama 3.
    pub(crate) fn llama3() -> Self {
        Self { split: Split::Llama3, whole_pieces: true, missing: MissingBytes::Skipped }
    }
}

/// The merges of a vocabulary, ready to encode.
pub(crate) struct Bpe {
    vocabulary: Vocabulary,
    merges: MergeTable,
    rules: Rules,
    /// Whether merging the bytes of a token makes it; if not, only `whole_pieces` gives it. By id, [`UNKNOWN`] until
    /// it is first asked for: finding it for all would take as long as all else that a tokenizer begins with.
    regular: Box<[AtomicU8]>,
    /// Bytes without a token; none in most vocabularies.
    missing: Vec<u8>,
    /// Found at the first piece that fits no key.
    borders: OnceLock<Borders>,
    classes: &'static Classes,
}

/// States of [`Bpe::regular`].
const UNKNOWN: u8 = 0;
const IRREGULAR: u8 = 1;
const REGULAR: u8 = 2;

impl Bpe {
    pub(crate) fn new(vocabulary: Vocabulary, merges: Vec<Merge>, rules: Rules) -> Self {
        let byte_ids = std::array::from_fn(|byte| vocabulary.id(&[byte as u8]).unwrap_or(merge::NONE));
        let missing = (0..=u8::MAX).filter(|&byte| byte_ids[usize::from(byte)] == merge::NONE).collect();
        let merges = MergeTable::new(merges, byte_ids);
        let regular = (0..vocabulary.len()).map(|_| AtomicU8::new(UNKNOWN)).collect();
        Self { vocabulary, merges, rules, regular, missing, borders: OnceLock::new(), classes: &CLASSES }
    }

    pub(crate) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    pub(crate) fn merges(&self) -> &MergeTable {
        &self.merges
    }

    /// Whether some tokens are found only as whole pieces.
    pub(crate) fn has_irregular(&self) -> bool {
        let mut scratch = Scratch::default();
        self.vocabulary.texts().any(|(id, _)| !self.is_regular(id, &mut scratch))
    }

    /// Whether merging the bytes of a token of text makes it.
    fn is_regular(&self, id: u32, scratch: &mut Scratch) -> bool {
        // Threads that ask at once find the same.
        let state = &self.regular[id as usize];
        match state.load(Ordering::Relaxed) {
            UNKNOWN => {
                let mut merged = Vec::new();
                self.merges.encode(self.vocabulary.bytes(id), scratch, &mut merged);
                let regular = merged == [id];
                state.store(if regular { REGULAR } else { IRREGULAR }, Ordering::Relaxed);
                regular
            }
            known => known == REGULAR,
        }
    }

    fn borders(&self) -> &Borders {
        self.borders.get_or_init(|| Borders::new(self.vocabulary.texts().map(|(_, bytes)| bytes)))
    }

    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Appends the tokens of a text.
    pub(crate) fn encode(&self, text: &str, cache: &mut Cache, out: &mut Vec<u32>) {
        match &self.rules.split {
            Split::Llama3 => {
                let classes = self.classes;
                let bytes = text.as_bytes();
                let ends = |at, ends: &mut [usize; BATCH]| llama3_piece_ends(classes, bytes, at, ends);
                self.encode_pieces(bytes, ends, cache, out);
            }
            split => {
                let all = split.ends(text);
                let mut batches = all.chunks(BATCH);
                let ends = |_, ends: &mut [usize; BATCH]| {
                    let batch = batches.next().unwrap_or_default();
                    ends[..batch.len()].copy_from_slice(batch);
                    batch.len()
                };
                self.encode_pieces(text.as_bytes(), ends, cache, out);
            }
        }
    }

    /// Appends the tokens of the pieces of a text; `fill` writes the ends of some pieces, in order, from a place where
    /// one begins, and says how many.
    ///
    /// In batches and three steps, so that the processor waits for many places of the cache at once instead of for
    /// one after the other.
    #[inline(always)]
    fn encode_pieces(
        &self,
        text: &[u8],
        mut fill: impl FnMut(usize, &mut [usize; BATCH]) -> usize,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) {
        let mut ends = [0; BATCH];
        let mut keys = [(Key::default(), 0); BATCH];
        let mut ids = [0; BATCH * INLINE];
        let mut start = 0;
        while start < text.len() {
            let count = fill(start, &mut ends);
            let mut at = start;
            for (key, &end) in keys.iter_mut().zip(&ends[..count]) {
                key.0 = if end - at <= KEY_BYTES { Key::new(text, at, end) } else { Key::NONE };
                key.1 = key.0.hash();
                at = end;
            }
            let mut filled = 0;
            for (&(key, hash), &end) in keys.iter().zip(&ends[..count]) {
                match cache.find(key, hash) {
                    // All places are copied, whatever their number: a branch on it would be mispredicted.
                    Some(found) if found[INLINE] as usize <= INLINE => {
                        ids[filled..filled + INLINE].copy_from_slice(&found[..INLINE]);
                        filled += found[INLINE] as usize;
                    }
                    found => {
                        out.extend_from_slice(&ids[..filled]);
                        filled = 0;
                        if let Some(found) = found {
                            out.extend_from_slice(cache.tokens(found));
                        } else if end - start > KEY_BYTES {
                            self.encode_long(text, start, end, cache, out);
                        } else {
                            self.encode_unknown(&text[start..end], (key, hash), true, cache, out);
                        }
                    }
                }
                start = end;
            }
            out.extend_from_slice(&ids[..filled]);
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
            Some(id) if self.is_regular(id, &mut cache.scratch) => out.push(id),
            // As a piece it is this token, as a part of one it is not: the cache cannot tell, so it is not asked.
            Some(id) if whole && self.rules.whole_pieces => return out.push(id),
            Some(_) => return self.merge(piece, &mut cache.scratch, out),
            None => self.merge(piece, &mut cache.scratch, out),
        }
        cache.insert(key, hash, &out[from..]);
    }

    /// Appends what merging the bytes of a piece gives.
    fn merge(&self, piece: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if !self.lacks_tokens_for(piece) {
            return self.merges.encode(piece, scratch, out);
        }
        let from = out.len();
        match self.rules.missing {
            MissingBytes::Skipped => {
                let kept: Vec<u8> = piece.iter().copied().filter(|b| !self.missing.contains(b)).collect();
                if !kept.is_empty() {
                    self.merges.encode(&kept, scratch, out);
                }
            }
            MissingBytes::Dropped => {
                self.merges.encode(piece, scratch, out);
                let merged = out.split_off(from);
                out.extend(merged.into_iter().filter(|&id| id != merge::NONE));
            }
            MissingBytes::Unknown { id, fuse } => {
                self.merges.encode(piece, scratch, out);
                let mut merged = out.split_off(from);
                if fuse {
                    merged.dedup_by(|b, a| *a == merge::NONE && *b == merge::NONE);
                }
                out.extend(merged.into_iter().map(|found| if found == merge::NONE { id } else { found }));
            }
        }
    }

    fn lacks_tokens_for(&self, piece: &[u8]) -> bool {
        !self.missing.is_empty() && piece.iter().any(|b| self.missing.contains(b))
    }

    /// A piece that fits no key: cut at its borders.
    #[inline(never)]
    fn encode_long(&self, text: &[u8], start: usize, end: usize, cache: &mut Cache, out: &mut Vec<u32>) {
        if self.lacks_tokens_for(&text[start..end]) {
            // What stands on both sides of such a byte may merge: borders say nothing about that.
            return self.merge(&text[start..end], &mut cache.scratch, out);
        }
        let borders = self.borders();
        let mut from = start;
        while from < end {
            let to = borders.next(text, from, end);
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
                    Some(id) if self.is_regular(id, &mut cache.scratch) => out.push(id),
                    Some(id) if whole && self.rules.whole_pieces => {
                        out.push(id);
                        from = to;
                        continue;
                    }
                    _ => self.merge(part, &mut cache.scratch, out),
                }
                cache.insert_long(part, &out[at..]);
            }
            from = to;
        }
    }
}

//! Exact byte-pair encoding.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod batch;
mod borders;
mod cache;
mod filter;
mod long_pieces;
mod merge;
mod vocabulary;

pub(crate) use cache::Cache;
pub(crate) use merge::{Merge, MergeTable, NONE, Scratch};
pub(crate) use vocabulary::Vocabulary;

use crate::split::{CLASSES, Classes, Split, Workspace, llama3_piece_ends};
use batch::{BATCH, Batch, GROUP, Group, Instructions, Row, told_apart};
pub(crate) use borders::Borders;
use cache::{KEY_BYTES, Key};
use rayon::prelude::*;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// Pieces of a text whose ends stand in a batch.
struct Pieces<'t> {
    text: &'t [u8],
    /// Where the first begins.
    start: usize,
    count: usize,
    /// Pieces that the split rule gives; else parts of one, between borders.
    whole: bool,
}

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
    instructions: Instructions,
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
        Self {
            vocabulary,
            merges,
            rules,
            regular,
            missing,
            borders: OnceLock::new(),
            classes: &CLASSES,
            instructions: Instructions::best(),
        }
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

    /// Finds at once, on all threads of the current rayon pool, what is otherwise found when it is first needed.
    pub(crate) fn prepare(&self) {
        rayon::join(
            || self.borders(),
            || {
                let ids: Vec<u32> = self.vocabulary.texts().map(|(id, _)| id).collect();
                ids.par_chunks(4096).for_each_init(Scratch::default, |scratch, ids| {
                    ids.iter().for_each(|&id| {
                        self.is_regular(id, scratch);
                    });
                });
            },
        );
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
                let ends = |at, ends: &mut [usize; BATCH], workspace: &mut Workspace| {
                    llama3_piece_ends(classes, bytes, at, ends, workspace)
                };
                self.encode_pieces(bytes, ends, cache, out);
            }
            split => {
                let all = split.ends(text);
                let mut batches = all.chunks(BATCH);
                let ends = |_, ends: &mut [usize; BATCH], _: &mut Workspace| {
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
    fn encode_pieces(
        &self,
        text: &[u8],
        mut fill: impl FnMut(usize, &mut [usize; BATCH], &mut Workspace) -> usize,
        cache: &mut Cache,
        out: &mut Vec<u32>,
    ) {
        cache.with_batch(|cache, batch| {
            let mut start = 0;
            while start < text.len() {
                let count = fill(start, &mut batch.ends, &mut batch.workspace);
                let pieces = Pieces { text, start, count, whole: true };
                self.encode_batch(pieces, batch, cache, out);
                start = batch.ends[count - 1];
            }
        });
    }

    /// Appends the tokens of the pieces of a batch.
    fn encode_batch(&self, pieces: Pieces, batch: &mut Batch, cache: &mut Cache, out: &mut Vec<u32>) {
        let Pieces { text, mut start, count, whole } = pieces;
        let Batch { ends, group, .. } = batch;
        for ends in ends[..count].chunks(GROUP) {
            let row = Row { text, start, ends, whole };
            self.instructions.make_keys(row, group, cache);
            let (mut done, mut long) = (0, 0);
            let mut looked_ahead = false;
            loop {
                done = self.instructions.copy_known(row, group, done, cache, out);
                if done == ends.len() {
                    break;
                }
                let (piece, key, place) = (row.piece(done), group.keys[done], group.places[done]);
                let from = out.len();
                // Not in a full cache, where new pieces never end: that would be slower.
                if !looked_ahead && !cache.is_full(place) {
                    looked_ahead = true;
                    self.fetch_unknown(row, done + 1, group, cache);
                }
                if key != Key::NONE {
                    if self.encode_piece(piece, whole, cache, out) {
                        cache.insert(key, place, piece, &out[from..]);
                    }
                } else {
                    let hash = group.long_hashes[long];
                    long += 1;
                    let known = hash.is_some_and(|hash| cache.long.get_hashed(piece, hash, out));
                    if !known && self.encode_piece(piece, whole, cache, out) {
                        cache.long.insert(piece, &out[from..]);
                    }
                }
                done += 1;
            }
            start = ends[ends.len() - 1];
        }
    }

    /// Begins to bring near what the vocabulary says of pieces that the cache does not know, from one of a row on.
    #[inline(never)]
    fn fetch_unknown(&self, row: Row, from: usize, group: &Group, cache: &Cache) {
        for number in from..row.ends.len() {
            let piece = row.piece(number);
            if piece.len() <= KEY_BYTES && !cache.knows(group.keys[number], group.places[number]) {
                self.vocabulary.fetch(piece);
            }
        }
    }

    /// Appends the tokens of a piece, or with `whole` false of a part of one between borders; whether they may be
    /// remembered.
    #[inline]
    fn encode_piece(&self, piece: &[u8], whole: bool, cache: &mut Cache, out: &mut Vec<u32>) -> bool {
        if piece.len() <= KEY_BYTES {
            self.encode_unknown(piece, whole, cache, out)
        } else {
            self.encode_long(piece, whole, cache, out)
        }
    }

    /// As [`encode_piece`](Self::encode_piece), as one.
    #[inline(never)]
    fn encode_unknown(&self, piece: &[u8], whole: bool, cache: &mut Cache, out: &mut Vec<u32>) -> bool {
        let apart = told_apart(piece.len());
        match self.vocabulary.id(piece) {
            // As a piece it is this token; as a part of one it may be others.
            Some(id) if whole && self.rules.whole_pieces => {
                out.push(id);
                return apart || self.is_regular(id, &mut cache.scratch);
            }
            Some(id) if self.is_regular(id, &mut cache.scratch) => out.push(id),
            Some(_) => {
                self.merge(piece, &mut cache.scratch, out);
                return apart || !self.rules.whole_pieces;
            }
            None => self.merge(piece, &mut cache.scratch, out),
        }
        true
    }

    /// As [`encode_piece`](Self::encode_piece) for a long piece: cut at its borders.
    #[inline(never)]
    fn encode_long(&self, piece: &[u8], whole: bool, cache: &mut Cache, out: &mut Vec<u32>) -> bool {
        let borders = self.borders();
        // Where a byte has no token, what stands on both sides of it may merge: borders say nothing about that.
        let first = match self.lacks_tokens_for(piece) {
            true => piece.len(),
            false => borders.next(piece, 0, piece.len()),
        };
        if first == piece.len() {
            return self.encode_unknown(piece, whole, cache, out);
        }
        cache.with_batch(|cache, batch| {
            let (mut start, mut end) = (0, first);
            while start < piece.len() {
                let (from, mut count) = (start, 0);
                while count < BATCH && start < piece.len() {
                    batch.ends[count] = end;
                    count += 1;
                    start = end;
                    if end < piece.len() {
                        end = borders.next(piece, end, piece.len());
                    }
                }
                let parts = Pieces { text: piece, start: from, count, whole: false };
                self.encode_batch(parts, batch, cache, out);
            }
        });
        true
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer;
    use crate::train::{Settings, train};
    use crate::vocabulary::Entry;

    /// Texts of all alphabets, with and without a warm cache: every set of instructions gives the same tokens.
    #[test]
    fn tokens_do_not_depend_on_the_instructions() {
        let corpus = include_str!("../../tests/golden/corpus.txt");
        let tokenizer = train(&[corpus], &Settings { vocab_size: 2000, ..Settings::default() }).unwrap();
        let parts = |tokenizer: &Tokenizer| {
            let merges = tokenizer.llama3_merges().unwrap();
            let entries: Vec<Entry> = merges.tokens.into_iter().map(Entry::text).collect();
            let vocabulary = Vocabulary::new(&entries).unwrap();
            Bpe::new(vocabulary, merges.merges.ordered().to_vec(), Rules::llama3())
        };
        let mut portable = parts(&tokenizer);
        portable.instructions = Instructions::Portable;
        let best = parts(&tokenizer);
        let (mut one, mut other) = (Cache::default(), Cache::default());
        let starts: Vec<usize> = corpus.char_indices().map(|(at, _)| at).collect();
        for round in 0..3000 {
            let (from, length) = (starts[round * 7919 % starts.len()], round * 31 % 900);
            let to = corpus.ceil_char_boundary((from + length).min(corpus.len()));
            let text = &corpus[from..to];
            let (mut a, mut b) = (Vec::new(), Vec::new());
            portable.encode(text, &mut one, &mut a);
            best.encode(text, &mut other, &mut b);
            assert_eq!(a, b, "{text:?}");
            let bytes: Vec<u8> = a.iter().flat_map(|&id| best.vocabulary().bytes(id)).copied().collect();
            assert_eq!(bytes, text.as_bytes());
        }
    }

    /// Tokens that no merges make, of all kinds of keys: as pieces they are tokens, as parts of one they are their bytes,
    /// whichever of the two the cache has met first. Without the rule about whole pieces they are their bytes always.
    #[test]
    fn a_token_that_merges_do_not_make_is_one_only_as_a_piece() {
        let lengths = [2, 3, KEY_BYTES - 1, KEY_BYTES, KEY_BYTES + 1, 100, 300];
        let token = |length: usize| "xy".repeat(length)[..length].to_string();
        let bytes = (0..=u8::MAX).map(|byte| Entry::text(vec![byte]));
        let entries: Vec<Entry> =
            bytes.chain(lengths.iter().map(|&length| Entry::text(token(length).into_bytes()))).collect();
        for whole_pieces in [true, false] {
            for instructions in [Instructions::Portable, Instructions::best()] {
                let rules = Rules { whole_pieces, ..Rules::llama3() };
                let mut bpe = Bpe::new(Vocabulary::new(&entries).unwrap(), Vec::new(), rules);
                bpe.instructions = instructions;
                let mut cache = Cache::default();
                for round in 0..8 {
                    for (number, &length) in lengths.iter().enumerate() {
                        let token = token(length);
                        let part = format!("{0}{token}{0}", "q".repeat(30));
                        for text in if (round + number) % 2 == 0 { [&token, &part] } else { [&part, &token] }
                        {
                            let mut ids = Vec::new();
                            bpe.encode(text, &mut cache, &mut ids);
                            let bytes: Vec<u32> = text.bytes().map(u32::from).collect();
                            let is_one = whole_pieces && text == &token;
                            assert_eq!(ids, if is_one { vec![256 + number as u32] } else { bytes }, "{text}");
                        }
                    }
                }
            }
        }
    }
}

//! Looking pieces up by the batch, in two steps, so that the processor waits for many places of the cache at once
//! instead of for one after the other: first the keys and places of all, then their tokens.

use super::cache::{
    COUNT_AT, Cache, Found, ID_BITS, INLINE, KEY_BYTES, Key, PAIRS, Pair, SPILLED, beside, spilled,
};
use crate::hashing::mix;
use crate::split::{ENDS, Workspace};

/// Ends of pieces that are found at once.
pub(super) const BATCH: usize = ENDS;
/// Pieces that are looked up together. Their lines (4 KB) and keys (2 KB) fit the nearest cache beside the rest.
pub(super) const GROUP: usize = 64;

/// The pieces of a batch.
pub(super) struct Batch {
    /// Where each piece ends in the text.
    pub(super) ends: [usize; BATCH],
    pub(super) group: Group,
    /// Of whoever finds the ends.
    pub(super) workspace: Workspace,
}

/// What the third number of the key of a part is changed by: its last byte becomes 0xfe, which no text has either. A token
/// that its own merges do not make is one as a whole piece, and several as a part. Keys without room for that byte
/// ([`told_apart`]) are of both.
pub(super) const PART: u64 = 1 << 56;

/// Whether the key of a piece of this length says if it is a part.
#[inline(always)]
pub(super) fn told_apart(length: usize) -> bool {
    length < KEY_BYTES
}

/// Pieces that follow one another in a text, at most [`GROUP`].
#[derive(Clone, Copy)]
pub(super) struct Row<'t> {
    pub(super) text: &'t [u8],
    /// Where the first begins.
    pub(super) start: usize,
    pub(super) ends: &'t [usize],
    /// Pieces that the split rule gives; else parts of one, whose keys are others ([`PART`]).
    pub(super) whole: bool,
}

impl<'t> Row<'t> {
    #[inline(always)]
    pub(super) fn start_of(&self, number: usize) -> usize {
        if number == 0 { self.start } else { self.ends[number - 1] }
    }

    #[inline(always)]
    pub(super) fn piece(&self, number: usize) -> &'t [u8] {
        &self.text[self.start_of(number)..self.ends[number]]
    }
}

/// The pieces of a row, as they are looked up.
pub(super) struct Group {
    pub(super) keys: [Key; GROUP],
    /// Which pair of slots each key can be in.
    pub(super) places: [u32; GROUP],
    /// Numbers of the pieces that fit no key, and how many there are.
    pub(super) long: [u8; GROUP],
    pub(super) long_count: usize,
    /// Of each of those, what [`LongPieces::prepare`](super::long_pieces::LongPieces::prepare) gave.
    pub(super) long_hashes: [Option<u64>; GROUP],
    /// While keys are made: those that are hashes.
    pub(super) hashed: [Hashed; GROUP],
}

/// The key of a piece by its hash.
#[derive(Clone, Copy)]
pub(super) struct Hashed {
    pub(super) number: u8,
    pub(super) place: u32,
    pub(super) key: Key,
}

impl Batch {
    pub(super) fn new() -> Box<Self> {
        let (keys, places) = ([Key::NONE; GROUP], [0; GROUP]);
        let hashed = [Hashed { number: 0, place: 0, key: Key::NONE }; GROUP];
        let group =
            Group { keys, places, long: [0; GROUP], long_count: 0, long_hashes: [None; GROUP], hashed };
        Box::new(Self { ends: [0; BATCH], group, workspace: Workspace::NEW })
    }
}

/// Which instructions look pieces up. Each hashes in its own way, so a cache belongs to one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instructions {
    /// Those that every processor has.
    Portable,
    /// AVX-512 and AES.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Instructions {
    /// The fastest of this processor.
    pub(crate) fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if super::avx512::is_supported() {
            return Self::Avx512;
        }
        Self::Portable
    }

    /// Makes the keys of some pieces, and begins to bring what `cache` knows of them near. Pieces that fit no key have
    /// [`Key::NONE`].
    pub(super) fn make_keys(self, row: Row, group: &mut Group, cache: &Cache) {
        match self {
            Self::Portable => make_keys(row, group),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: made only where the instructions are.
            Self::Avx512 if row.whole => unsafe { super::avx512::make_keys::<0>(row, group, cache) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx512 => unsafe { super::avx512::make_keys::<PART>(row, group, cache) },
        }
        let Group { long, long_count, long_hashes, .. } = group;
        let long_hashes = &mut long_hashes[..*long_count];
        for (&number, hash) in long.iter().zip(&mut *long_hashes) {
            *hash = cache.long.prepare(row.piece(usize::from(number)));
        }
        for hash in long_hashes.iter().flatten() {
            cache.long.prepare_data(*hash);
        }
    }

    /// Appends the tokens of the pieces of a row, whose keys were made, from one of them up to the first that is not
    /// known; its number, or how many pieces there are.
    pub(super) fn copy_known(
        self,
        row: Row,
        group: &Group,
        from: usize,
        cache: &Cache,
        out: &mut Vec<u32>,
    ) -> usize {
        match self {
            Self::Portable => copy_known(group, from, row.ends.len(), cache, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: made only where the instructions are.
            Self::Avx512 => unsafe { super::avx512::copy_known(row, group, from, cache, out) },
        }
    }
}

fn make_keys(row: Row, group: &mut Group) {
    let Row { text, mut start, ends, whole } = row;
    let Group { keys, places, long, long_count, .. } = group;
    *long_count = 0;
    for (number, ((&end, key), place)) in ends.iter().zip(keys).zip(places).enumerate() {
        long[*long_count] = number as u8;
        *long_count += usize::from(end - start > KEY_BYTES);
        *key = if end - start <= KEY_BYTES { key_of(text, start, end) } else { Key::NONE };
        if !whole && told_apart(end - start) {
            key.0[2] ^= PART;
        }
        let [a, b, c, _] = key.0;
        let hash = mix(a ^ mix(b ^ c.rotate_left(29).wrapping_mul(0xa076_1d64_78bd_642f)));
        *place = (hash >> (u64::BITS - PAIRS.ilog2())) as u32;
        start = end;
    }
}

/// The bytes of a key that its piece does not fill, by the length of the piece.
const PADDING: [[u64; 3]; KEY_BYTES + 1] = {
    let mut padding = [[0; 3]; KEY_BYTES + 1];
    let mut length = 0;
    while length <= KEY_BYTES {
        let mut byte = length;
        while byte < KEY_BYTES {
            padding[length][byte / 8] |= 0xff << (byte % 8 * 8);
            byte += 1;
        }
        length += 1;
    }
    padding
};

/// The key of `text[start..end]`, which fits one.
#[inline(always)]
fn key_of(text: &[u8], start: usize, end: usize) -> Key {
    let bytes = match text.get(start..).and_then(|rest| rest.first_chunk::<KEY_BYTES>()) {
        Some(bytes) => *bytes,
        None => {
            let mut bytes = [0; KEY_BYTES];
            bytes[..end - start].copy_from_slice(&text[start..end]);
            bytes
        }
    };
    let mut key = Key::NONE;
    let padding = &PADDING[end - start];
    for ((number, eight), pad) in key.0.iter_mut().zip(bytes.as_chunks::<8>().0).zip(padding) {
        *number = u64::from_le_bytes(*eight) | pad;
    }
    key
}

/// What a pair of slots knows of a key; 0 if nothing. Without a branch: which of the two it is, nobody can predict.
#[inline(always)]
fn find(Pair(slots): &Pair, key: Key) -> Found {
    let [a, b, c, _] = key.0;
    let is = |slot: &super::cache::Slot| ((slot.key[0] ^ a) | (slot.key[1] ^ b) | (slot.key[2] ^ c)) == 0;
    let slot = &slots[usize::from(is(&slots[1]))];
    if is(slot) { slot.found } else { 0 }
}

fn copy_known(group: &Group, from: usize, count: usize, cache: &Cache, out: &mut Vec<u32>) -> usize {
    let pairs = cache.pairs();
    let mut number = from;
    while number < count {
        out.reserve((count - number) * INLINE);
        let (room, mut filled) = (out.spare_capacity_mut(), 0);
        let mut found = 0;
        for (&key, &place) in group.keys[number..count].iter().zip(&group.places[number..count]) {
            found = find(&pairs[place as usize], key);
            if found == 0 {
                found = find(&pairs[beside(place) as usize], key);
            }
            if found.wrapping_sub(1 << COUNT_AT) >= 3 << COUNT_AT {
                break;
            }
            // All places are written, whatever their number: a branch on it would be mispredicted.
            for (i, id) in room[filled..filled + INLINE].iter_mut().enumerate() {
                id.write((found >> (ID_BITS * i as u32)) as u32 % (1 << ID_BITS));
            }
            filled += (found >> COUNT_AT) as usize;
            number += 1;
        }
        // SAFETY: this many were written.
        unsafe { out.set_len(out.len() + filled) };
        if number < count {
            if found & SPILLED == 0 {
                return number;
            }
            let (at, length) = spilled(found);
            out.extend_from_slice(&cache.spill()[at..at + length]);
            number += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::cache::HASHED_BYTES;
    use super::*;

    /// Pieces of all lengths at all distances from the end of a text, some of them known: both ways append the same.
    #[test]
    fn known_pieces_have_their_tokens_and_others_none() {
        let text: Vec<u8> =
            (0u32..2000).map(|i| b"abcde fgh\0\xc3\xa9"[(i * i + i / 7) as usize % 12]).collect();
        for instructions in [Instructions::Portable, Instructions::best()] {
            let mut cache = Cache::default();
            let mut known = std::collections::HashMap::<Vec<u8>, Vec<u32>>::new();
            for round in 0..4000usize {
                let from = round * 7 % 1900;
                let mut batch = Batch::new();
                let Batch { ends, group, .. } = &mut *batch;
                let (mut at, mut count) = (from, 0);
                while count < GROUP && at < text.len() {
                    let most = if round % 3 == 0 { HASHED_BYTES } else { KEY_BYTES };
                    at = (at + 1 + (round + count * count) % (most + 3)).min(text.len());
                    ends[count] = at;
                    count += 1;
                }
                let row = Row { text: &text, start: from, ends: &ends[..count], whole: true };
                instructions.make_keys(row, group, &cache);
                let piece = |i| row.piece(i);
                let long = (0..count).filter(|&i| group.keys[i] == Key::NONE).map(|i| i as u8);
                assert!(long.eq(group.long[..group.long_count].iter().copied()));
                let (mut done, mut out) = (0, Vec::new());
                loop {
                    let before = out.len();
                    let next = instructions.copy_known(row, group, done, &cache, &mut out);
                    let expected: Vec<u32> = (done..next).flat_map(|i| known[piece(i)].clone()).collect();
                    assert_eq!(out[before..], expected);
                    if next == count {
                        break;
                    }
                    assert!(group.keys[next] != Key::NONE || piece(next).len() > KEY_BYTES);
                    if group.keys[next] != Key::NONE {
                        let mut tokens: Vec<u32> =
                            piece(next).iter().map(|&b| u32::from(b) + round as u32).collect();
                        tokens.truncate(1 + round % 30);
                        if round % 11 == 0 {
                            tokens[0] = 1 << ID_BITS;
                        }
                        cache.insert(group.keys[next], group.places[next], piece(next), &tokens);
                        out.extend(&tokens);
                        known.insert(piece(next).to_vec(), tokens);
                    }
                    done = next + 1;
                }
            }
        }
    }

    /// Where a key is a hash, the bytes decide.
    #[test]
    fn pieces_with_one_hash_are_told_apart() {
        let instructions = Instructions::best();
        for length in KEY_BYTES + 1..=HASHED_BYTES {
            let text = vec![b'a'; length];
            let (mut cache, mut batch) = (Cache::default(), Batch::new());
            let group = &mut batch.group;
            let ends = [length];
            let row = Row { text: &text, start: 0, ends: &ends, whole: true };
            instructions.make_keys(row, group, &cache);
            if group.keys[0] == Key::NONE {
                continue;
            }
            cache.insert(group.keys[0], group.places[0], &text, &[7, 8]);
            let mut out = Vec::new();
            assert_eq!(instructions.copy_known(row, group, 0, &cache, &mut out), 1);
            assert_eq!(out, [7, 8]);
            for at in 0..length {
                let mut other = text.clone();
                other[at] = b'b';
                let row = Row { text: &other, ..row };
                assert_eq!(instructions.copy_known(row, group, 0, &cache, &mut out), 0, "{length}, {at}");
            }
        }
    }

    /// A key stands for its piece alone: NUL at its end is not padding, and an empty slot is no piece of NULs.
    #[test]
    fn pieces_of_nul_are_told_apart() {
        for instructions in [Instructions::Portable, Instructions::best()] {
            let mut cache = Cache::default();
            let text = [0; 100];
            for length in (1..=KEY_BYTES).rev() {
                let mut batch = Batch::new();
                let group = &mut batch.group;
                let row = Row { text: &text, start: 0, ends: &[length], whole: true };
                instructions.make_keys(row, group, &cache);
                let mut out = Vec::new();
                assert_eq!(instructions.copy_known(row, group, 0, &cache, &mut out), 0, "{length}");
                cache.insert(group.keys[0], group.places[0], &text[..length], &[length as u32]);
                let known = usize::from(length < KEY_BYTES);
                assert_eq!(instructions.copy_known(row, group, 0, &cache, &mut out), known);
                assert_eq!(out, &[length as u32][..known]);
            }
        }
    }
}

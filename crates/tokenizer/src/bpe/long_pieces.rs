use crate::hashing::{IN_BLOCKS, blocks, of_bytes};

/// Longest piece worth remembering, bytes.
pub(crate) const LONGEST: usize = 256;
/// Pieces remembered together, a power of two; 1 MB of slots.
const SETS: usize = 1 << 14;
/// Bytes of pieces and tokens before everything is forgotten.
const BYTES: usize = 8 << 20;

/// Tokens copied at once where there are no more: a loop over their number could not be predicted.
const TOKENS_READ: usize = 16;

/// Where a piece stands, with its tokens after it. Nothing if its length is 0.
#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    at: u32,
    /// Of the piece, bytes.
    length: u32,
    /// Tokens.
    count: u32,
}

/// Four slots that a piece can be in: one line of the processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Set([Slot; 4]);

impl Set {
    /// The only slot that may have a piece of this hash. Without a branch: which of them it is, nobody can predict.
    #[inline(always)]
    fn of(&self, hash: u64) -> &Slot {
        let Self(slots) = self;
        let is = |number: usize| usize::from(slots[number].hash == hash as u32);
        &slots[is(1) | (2 * is(2)) | (3 * is(3))]
    }
}

/// Tokens of pieces that fit no key, such as the clauses of Chinese and Japanese. Empty until the first is remembered.
#[derive(Default)]
pub(crate) struct LongPieces {
    sets: Vec<Set>,
    /// Pieces and tokens, the latter as little-endian numbers of four bytes.
    data: Vec<u8>,
}

impl LongPieces {
    /// Appends the tokens of a known piece and says whether it was known.
    #[inline]
    pub(crate) fn get(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        piece.len() <= LONGEST && self.get_hashed(piece, of_bytes(piece), out)
    }

    /// The hash of a piece, if it may be known. Begins to bring near what is known of it.
    #[inline]
    pub(super) fn prepare(&self, piece: &[u8]) -> Option<u64> {
        if piece.len() > LONGEST || self.sets.is_empty() {
            return None;
        }
        let hash = of_bytes(piece);
        fetch(&raw const self.sets[place(hash)]);
        Some(hash)
    }

    /// The second step of [`prepare`](Self::prepare).
    #[inline]
    pub(super) fn prepare_data(&self, hash: u64) {
        let slot = self.sets[place(hash)].of(hash);
        let data = self.data.as_ptr().wrapping_add(slot.at as usize);
        fetch(data);
        fetch(data.wrapping_add(64));
    }

    /// As [`get`](Self::get), with the hash of the piece.
    #[inline]
    pub(super) fn get_hashed(&self, piece: &[u8], hash: u64, out: &mut Vec<u32>) -> bool {
        if self.sets.is_empty() {
            return false;
        }
        let slot = self.sets[place(hash)].of(hash);
        if slot.hash != hash as u32 || slot.length as usize != piece.len() {
            return false;
        }
        let (found, tokens) = self.data[slot.at as usize..].split_at(piece.len());
        if !equal(found, piece) {
            return false;
        }
        let count = slot.count as usize;
        if count <= TOKENS_READ
            && let Some(bytes) = tokens.first_chunk::<{ 4 * TOKENS_READ }>()
        {
            let all: [u32; TOKENS_READ] =
                std::array::from_fn(|i| u32::from_le_bytes(bytes.as_chunks::<4>().0[i]));
            let length = out.len();
            out.extend_from_slice(&all);
            out.truncate(length + count);
        } else {
            let tokens = &tokens.as_chunks::<4>().0[..count];
            out.extend(tokens.iter().map(|&bytes| u32::from_le_bytes(bytes)));
        }
        true
    }

    /// Remembers a piece in place of the one of four that was remembered longest.
    pub(crate) fn insert(&mut self, piece: &[u8], tokens: &[u32]) {
        if piece.is_empty() || piece.len() > LONGEST {
            return;
        }
        if self.sets.is_empty() || self.data.len() > BYTES {
            self.sets.clear();
            self.sets.resize(SETS, Set::default());
            self.data.clear();
        }
        let hash = of_bytes(piece);
        let Set(slots) = &mut self.sets[place(hash)];
        slots.rotate_right(1);
        slots[0] = Slot {
            hash: hash as u32,
            at: self.data.len() as u32,
            length: piece.len() as u32,
            count: tokens.len() as u32,
        };
        self.data.extend_from_slice(piece);
        self.data.extend(tokens.iter().flat_map(|id| id.to_le_bytes()));
    }
}

/// Whether two pieces of the same length are equal.
#[inline(always)]
fn equal(one: &[u8], other: &[u8]) -> bool {
    if !IN_BLOCKS.contains(&one.len()) || one.len() != other.len() {
        return one == other;
    }
    let differ = |([a, b], [c, d]): ([u64; 2], [u64; 2])| (a ^ c) | (b ^ d);
    blocks(one).into_iter().zip(blocks(other)).map(differ).fold(0, |all, bits| all | bits) == 0
}

/// Begins to bring the line of an address near.
#[inline]
pub(super) fn fetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: fetching in advance reads nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[inline]
fn place(hash: u64) -> usize {
    (hash >> (u64::BITS - SETS.ilog2())) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_has_its_own_tokens_and_the_memory_is_bounded() {
        let mut known = LongPieces::default();
        let mut out = Vec::new();
        assert!(!known.get(b"piece", &mut out));
        for round in 0u32..100_000 {
            let piece = format!("{round}{}", "long piece ".repeat(round as usize % 24));
            known.insert(piece.as_bytes(), &[round, round + 1]);
            out.clear();
            assert_eq!(known.get(piece.as_bytes(), &mut out), piece.len() <= LONGEST);
            assert!(out.is_empty() || out == [round, round + 1]);
            assert!(!known.get(format!("{piece}?").as_bytes(), &mut out));
        }
        assert!(known.data.len() <= BYTES + LONGEST + 8);
    }
}

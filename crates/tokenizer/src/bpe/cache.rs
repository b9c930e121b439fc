use super::Scratch;
use crate::hashing::{FastMap, mix};

/// Longest piece that fits a key, bytes; nearly all words do.
pub(crate) const KEY_BYTES: usize = 15;

/// The bits that the bytes of a piece fill, by its length.
const KEPT: [[u64; 2]; 16] = {
    let mut kept = [[0; 2]; 16];
    let mut length = 1;
    while length < 16 {
        let all = u128::MAX >> (128 - 8 * length);
        kept[length] = [all as u64, (all >> 64) as u64];
        length += 1;
    }
    kept
};

/// A short piece as two numbers: its bytes, zeros, and its length in the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Key {
    low: u64,
    high: u64,
}

impl Key {
    /// The key of no piece.
    pub(crate) const NONE: Self = Self { low: 0, high: u64::MAX };

    /// The key of `text[start..end]`, at least 1 and at most [`KEY_BYTES`] bytes.
    #[inline(always)]
    pub(crate) fn new(text: &[u8], start: usize, end: usize) -> Self {
        let length = end - start;
        let bytes = match text.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
            Some(bytes) => *bytes,
            None => {
                let mut bytes = [0; 16];
                bytes[..length].copy_from_slice(&text[start..end]);
                bytes
            }
        };
        let [low, high] = bytes.as_chunks::<8>().0 else { unreachable!("sixteen bytes are two times eight") };
        let [keep_low, keep_high] = KEPT[length % 16];
        Self {
            low: u64::from_le_bytes(*low) & keep_low,
            high: u64::from_le_bytes(*high) & keep_high | (length as u64) << 56,
        }
    }

    /// Equality without a branch.
    #[inline]
    fn is(self, other: Self) -> bool {
        (self.low ^ other.low) | (self.high ^ other.high) == 0
    }

    #[inline]
    pub(crate) fn hash(self) -> u64 {
        mix(self.low ^ self.high.rotate_left(23).wrapping_mul(0xa076_1d64_78bd_642f))
    }
}

/// Most tokens that are kept beside their key.
pub(crate) const INLINE: usize = 3;

/// Tokens of a short piece, and in the last place how many; if more than [`INLINE`], the first place says where they
/// begin in the spill.
pub(crate) type Found = [u32; INLINE + 1];

/// A key and its tokens.
#[derive(Clone, Copy, Default)]
struct Slot {
    key: Key,
    found: Found,
}

/// Two slots that a key can be in: one cache line.
#[derive(Clone, Copy, Default)]
#[repr(align(64))]
struct Pair([Slot; 2]);

/// Slots, a power of two; 4 MB in all.
const SLOTS: usize = 1 << 17;
/// Tokens spilled before everything is forgotten.
const SPILL: usize = 1 << 20;
/// Longest piece worth remembering, bytes.
const LONGEST: usize = 48;
/// Long pieces remembered before all of them are forgotten.
const LONG_PIECES: usize = 1 << 14;

/// Tokens of short pieces seen before, of bounded size. Owned by one thread at a time; never changes a result.
pub(crate) struct Cache {
    pairs: Vec<Pair>,
    spill: Vec<u32>,
    /// Pieces that fit no key, up to [`LONGEST`].
    long: FastMap<Box<[u8]>, Box<[u32]>>,
    pub(crate) scratch: Scratch,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            pairs: vec![Pair::default(); SLOTS / 2],
            spill: Vec::new(),
            long: FastMap::default(),
            scratch: Scratch::default(),
        }
    }
}

impl Cache {
    #[inline]
    fn place(hash: u64) -> usize {
        (hash >> (64 - (SLOTS / 2).ilog2())) as usize
    }

    /// What is known of a piece.
    #[inline(always)]
    pub(crate) fn find(&self, key: Key, hash: u64) -> Option<&Found> {
        let Pair(slots) = &self.pairs[Self::place(hash)];
        // Chosen without a branch: which of the two it is, nobody can predict.
        let slot = &slots[usize::from(slots[1].key.is(key))];
        slot.key.is(key).then_some(&slot.found)
    }

    /// The tokens that [`find`](Self::find) found.
    #[inline]
    pub(crate) fn tokens<'a>(&'a self, found: &'a Found) -> &'a [u32] {
        match found[INLINE] as usize {
            count @ ..=INLINE => &found[..count],
            count => &self.spill[found[0] as usize..][..count],
        }
    }

    /// Appends the tokens of a known piece and says whether it was known.
    pub(crate) fn get(&self, key: Key, hash: u64, out: &mut Vec<u32>) -> bool {
        let found = self.find(key, hash);
        out.extend_from_slice(found.map_or(&[], |found| self.tokens(found)));
        found.is_some()
    }

    /// Remembers a piece in place of the one that was remembered longest of two.
    pub(crate) fn insert(&mut self, key: Key, hash: u64, tokens: &[u32]) {
        if self.spill.len() > SPILL {
            self.pairs.fill(Pair::default());
            self.spill.clear();
        }
        let mut found = [0; INLINE + 1];
        found[INLINE] = tokens.len() as u32;
        if tokens.len() <= INLINE {
            found[..tokens.len()].copy_from_slice(tokens);
        } else {
            found[0] = self.spill.len() as u32;
            self.spill.extend_from_slice(tokens);
        }
        let Pair(slots) = &mut self.pairs[Self::place(hash)];
        slots[1] = slots[0];
        slots[0] = Slot { key, found };
    }

    /// As [`get`](Self::get), for a piece that fits no key.
    pub(crate) fn get_long(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if piece.len() > LONGEST {
            return false;
        }
        let Some(tokens) = self.long.get(piece) else { return false };
        out.extend_from_slice(tokens);
        true
    }

    /// As [`insert`](Self::insert), for a piece that fits no key.
    pub(crate) fn insert_long(&mut self, piece: &[u8], tokens: &[u32]) {
        if piece.len() > LONGEST {
            return;
        }
        if self.long.len() >= LONG_PIECES {
            self.long.clear();
        }
        self.long.insert(piece.into(), tokens.into());
    }
}

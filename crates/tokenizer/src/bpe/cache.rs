//! Tokens of pieces seen before, of bounded size: short pieces in lines of the processor's cache, and long ones by their
//! hash. It never changes a result.

use super::Scratch;
use super::batch::Batch;
use super::long_pieces::LongPieces;
use crate::large_pages::LargePages;
use bytemuck::Zeroable;

/// Longest piece that fits a key, bytes; nearly all words do.
pub(crate) const KEY_BYTES: usize = 24;

/// Longest piece that a key can stand for by its hash, bytes.
pub(super) const HASHED_BYTES: usize = 192;

/// A piece as three numbers: its bytes, and after them 0xff, which no text has; or, if they are too many, a hash of 16
/// bytes, 0xff and the length. The fourth number is all ones, so that a key is one register. All ones: no piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(32))]
pub(super) struct Key(pub(super) [u64; 4]);

impl Key {
    pub(super) const NONE: Self = Self([u64::MAX; 4]);
}

/// The tokens of a piece in one number. From the lowest bit: three tokens of [`ID_BITS`] and how many they are; or, with
/// [`SPILLED`], where they begin in the spill (32 bits) and how many. 0 is nothing.
pub(super) type Found = u64;

/// Bits of a token beside its key; larger ids are spilled.
pub(super) const ID_BITS: u32 = 20;
/// Most tokens beside a key.
pub(super) const INLINE: usize = 3;
/// Where the number of tokens beside a key stands.
pub(super) const COUNT_AT: u32 = 60;
/// The tokens stand in the spill.
pub(super) const SPILLED: u64 = 1 << 63;

/// A key and its tokens.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Slot {
    pub(super) key: [u64; 3],
    pub(super) found: Found,
}

/// Two of the four slots that a key can be in: one line of the processor's cache. The other two are in the line beside it
/// ([`beside`]), which is looked at only if this one is full of others.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Pair(pub(super) [Slot; 2]);

// SAFETY: numbers. A slot of zeros has the key of 24 NUL characters, and no tokens.
unsafe impl Zeroable for Pair {}

/// Pairs of slots of keys that are bytes, a power of two; 4 MB in all.
pub(super) const PAIRS: usize = 1 << 16;
/// Pairs of keys that are hashes, behind the others, so that clauses that never come again do not drive words out; 2 MB.
pub(super) const HASHED_PAIRS: usize = 1 << 15;
const ALL_PAIRS: usize = PAIRS + HASHED_PAIRS;
/// The pair that holds what does not fit this one; and the other way round.
#[inline(always)]
pub(super) fn beside(place: u32) -> u32 {
    place ^ 1
}

/// Tokens that do not stand beside their keys. Before those of a key that is a hash stand the bytes of the piece, by the
/// four ([`fours`]), since keys of two pieces could be equal.
struct Spill {
    /// Ends with [`SPILL_READ`] tokens that mean nothing.
    tokens: Vec<u32>,
    /// Tokens, and bytes by the four, from which on all of them are forgotten.
    most: usize,
}

/// Tokens read from the spill at once.
pub(super) const SPILL_READ: usize = 16;

/// Numbers of four bytes that the bytes of a piece take.
#[inline(always)]
pub(super) fn fours(piece: &[u8]) -> usize {
    piece.len().div_ceil(4)
}

impl Spill {
    fn new(most: usize) -> Self {
        Self { tokens: vec![0; SPILL_READ], most }
    }

    fn forget(&mut self) {
        self.tokens.clear();
        self.tokens.resize(SPILL_READ, 0);
    }

    /// Adds the bytes of a piece and its tokens; where the latter begin.
    fn add(&mut self, piece: &[u8], tokens: &[u32]) -> usize {
        self.tokens.truncate(self.tokens.len() - SPILL_READ);
        let before = self.tokens.len();
        let at = before + fours(piece);
        self.tokens.resize(at, 0);
        bytemuck::cast_slice_mut(&mut self.tokens[before..])[..piece.len()].copy_from_slice(piece);
        self.tokens.extend_from_slice(tokens);
        self.tokens.extend_from_slice(&[0; SPILL_READ]);
        at
    }
}

/// See the module. Owned by one thread at a time.
pub(crate) struct Cache {
    pairs: LargePages<Pair>,
    spill: Spill,
    /// Of keys that are hashes.
    hashed_spill: Spill,
    pub(crate) long: LongPieces,
    pub(crate) scratch: Scratch,
    /// Not in use; kept so that a short text does not make them anew.
    batches: Vec<Box<Batch>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            pairs: LargePages::zeroed(ALL_PAIRS),
            spill: Spill::new(1 << 20),
            hashed_spill: Spill::new(2 << 20),
            long: LongPieces::default(),
            scratch: Scratch::default(),
            batches: Vec::new(),
        }
    }
}

impl Cache {
    #[inline]
    pub(super) fn pairs(&self) -> &[Pair; ALL_PAIRS] {
        self.pairs.first_chunk().expect("the table has this many")
    }

    /// Where the tokens of keys stand that are bytes.
    #[inline]
    pub(super) fn spill(&self) -> &[u32] {
        &self.spill.tokens
    }

    /// Where the bytes and tokens of keys stand that are hashes.
    #[inline]
    pub(super) fn hashed_spill(&self) -> &[u32] {
        &self.hashed_spill.tokens
    }

    /// Does something with a batch.
    pub(super) fn with_batch(&mut self, work: impl FnOnce(&mut Self, &mut Batch)) {
        let mut batch = self.batches.pop().unwrap_or_else(Batch::new);
        work(self, &mut batch);
        self.batches.push(batch);
    }

    /// Remembers a piece: in its pair, or beside it if that is full; if both are, in place of the one of its pair that was
    /// remembered longest, since what is beside costs another look.
    pub(super) fn insert(&mut self, key: Key, place: u32, piece: &[u8], tokens: &[u32]) {
        let [a, b, c, _] = key.0;
        if a | b | c == 0 {
            // 24 NUL characters look like an empty slot.
            return;
        }
        let hashed = is_hashed(place);
        let fits = tokens.len() <= INLINE && tokens.iter().all(|&id| id < 1 << ID_BITS);
        let found = if fits && !hashed {
            let ids = tokens.iter().rev().fold(0, |ids, &id| ids << ID_BITS | u64::from(id));
            ids | (tokens.len() as u64) << COUNT_AT
        } else {
            let (spill, piece) =
                if hashed { (&mut self.hashed_spill, piece) } else { (&mut self.spill, &piece[..0]) };
            if spill.tokens.len() > spill.most {
                spill.forget();
                let forgotten = if hashed { PAIRS..ALL_PAIRS } else { 0..PAIRS };
                self.pairs[forgotten].fill(Pair::zeroed());
            }
            SPILLED | (tokens.len() as u64) << 32 | spill.add(piece, tokens) as u64
        };
        let slot = Slot { key: [a, b, c], found };
        let pairs = &mut *self.pairs;
        let free = [place, place, beside(place), beside(place)].into_iter().zip([0, 1, 0, 1]);
        for (place, number) in free {
            let slots = &mut pairs[place as usize].0;
            if slots[number].found == 0 {
                slots[number] = slot;
                return;
            }
        }
        let slots = &mut pairs[place as usize].0;
        *slots = [slot, slots[0]];
    }

    /// Whether a key of this place has a slot.
    #[inline]
    pub(super) fn knows(&self, key: Key, place: u32) -> bool {
        let is = |slot: &Slot| slot.key == key.0[..3];
        [place, beside(place)].iter().any(|&place| self.pairs()[place as usize].0.iter().any(is))
    }

    /// Whether all slots that a key of this place can have are taken.
    pub(super) fn is_full(&self, place: u32) -> bool {
        let pairs = self.pairs();
        [place, beside(place)].iter().all(|&place| pairs[place as usize].0.iter().all(|slot| slot.found != 0))
    }
}

/// Whether keys of this place are hashes.
#[inline(always)]
pub(super) fn is_hashed(place: u32) -> bool {
    place as usize >= PAIRS
}

/// Where tokens begin in the spill, and how many they are.
#[inline(always)]
pub(super) fn spilled(found: Found) -> (usize, usize) {
    (found as u32 as usize, (found >> 32) as usize & 0x7fff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of more pieces of one place than it has slots, the first stay beside it, and its own pair has the last.
    #[test]
    fn a_full_pair_goes_on_beside_itself() {
        let mut cache = Cache::default();
        let key = |number: u64| Key([number, number, number, u64::MAX]);
        let place = 7;
        for number in 1..=8 {
            assert_eq!(cache.is_full(place), number > 4);
            assert!(!cache.knows(key(number), place));
            cache.insert(key(number), place, b"", &[number as u32]);
            assert!(cache.knows(key(number), place));
        }
        let known: Vec<u64> = (1..=8).filter(|&number| cache.knows(key(number), place)).collect();
        assert_eq!(known, [3, 4, 7, 8]);
        let found =
            |place: u32| cache.pairs()[place as usize].0.map(|slot| slot.found as u32 % (1 << ID_BITS));
        assert_eq!([found(place), found(beside(place))], [[8, 7], [3, 4]]);
    }
}

use super::filter::Filter;
use super::long_pieces::fetch;
use crate::Error;
use crate::hashing::{FastMap, mix};
use crate::large_pages::LargePages;
use crate::vocabulary::{Entry, EntryKind, Strings};
use bytemuck::Zeroable;

/// The byte strings of all tokens by id, and from the byte strings of those that are text to the id.
pub(crate) struct Vocabulary {
    strings: Strings,
    /// Whether a token is text, by id.
    is_text: Box<[bool]>,
    short: ShortTokens,
    /// Tokens that are too long for a key.
    long: FastMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    /// A vocabulary from its entries in the order of their ids. Only text is found by its bytes.
    ///
    /// # Errors
    /// Two tokens of text with the same bytes, or one with none.
    pub(crate) fn new(entries: &[Entry]) -> Result<Self, Error> {
        let strings = Strings::new(entries.iter().map(|e| e.bytes.as_slice()));
        let short = ShortTokens::new(entries.len());
        let is_text = entries.iter().map(|entry| entry.kind == EntryKind::Text).collect();
        let mut vocabulary = Self { strings, is_text, short, long: FastMap::default() };
        for (id, Entry { bytes, .. }) in
            entries.iter().enumerate().filter(|(_, entry)| entry.kind == EntryKind::Text)
        {
            if bytes.is_empty() {
                return Err(Error::Vocabulary(format!("token {id} is empty")));
            }
            if let Some(other) = vocabulary.id(bytes) {
                let text = String::from_utf8_lossy(bytes);
                return Err(Error::Vocabulary(format!("tokens {other} and {id} are both {text:?}")));
            }
            if bytes.len() <= KEY_BYTES {
                vocabulary.short.insert(Key::new(bytes), id as u32);
            } else {
                vocabulary.long.insert(bytes.as_slice().into(), id as u32);
            }
        }
        Ok(vocabulary)
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> usize {
        self.strings.len()
    }

    /// The tokens of text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (u32, &[u8])> + Clone {
        let texts = self.is_text.iter().enumerate().filter(|(_, is_text)| **is_text);
        texts.map(|(id, _)| (id as u32, self.bytes(id as u32)))
    }

    /// What a token decodes to; empty if there is no such token.
    #[inline]
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.strings.get(id)
    }

    /// Begins to bring near what [`id`](Self::id) will look at.
    #[inline]
    pub(super) fn fetch(&self, bytes: &[u8]) {
        if (1..=KEY_BYTES).contains(&bytes.len()) {
            self.short.fetch(Key::new(bytes));
        }
    }

    /// The token whose text these bytes are.
    pub(crate) fn id(&self, bytes: &[u8]) -> Option<u32> {
        match bytes.len() {
            0 => None,
            1..=KEY_BYTES => self.short.get(Key::new(bytes)),
            _ => self.long.get(bytes).copied(),
        }
    }
}

/// Longest token that fits a key, bytes; nearly all do.
const KEY_BYTES: usize = 15;

/// A short token as one number: its bytes, zeros, and its length in the last byte.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Key(u128);

// SAFETY: a number.
unsafe impl Zeroable for Key {}

impl Key {
    /// The key of at least 1 and at most [`KEY_BYTES`] bytes.
    #[inline]
    fn new(token: &[u8]) -> Self {
        let length = token.len();
        // The first and last bytes in loads of one size, which may overlap: to copy them one by one is slower.
        let (low, high) = if let (Some(first), Some(last)) = (token.first_chunk(), token.last_chunk()) {
            let rest = u64::from_le_bytes(*last).checked_shr(8 * (16 - length as u32)).unwrap_or(0);
            (u64::from_le_bytes(*first), rest)
        } else if let (Some(first), Some(last)) = (token.first_chunk(), token.last_chunk()) {
            let rest = u64::from(u32::from_le_bytes(*last)) >> (8 * (8 - length));
            (u64::from(u32::from_le_bytes(*first)) | rest << 32, 0)
        } else {
            (token.iter().rev().fold(0, |low, &byte| low << 8 | u64::from(byte)), 0)
        };
        Self(u128::from(low) | u128::from(high | (length as u64) << 56) << 64)
    }

    #[inline]
    fn hash(self) -> u64 {
        let (low, high) = (self.0 as u64, (self.0 >> 64) as u64);
        mix(low ^ high.rotate_left(23).wrapping_mul(0xa076_1d64_78bd_642f))
    }
}

/// An open-addressed table from keys to ids: one cache line per look-up, where a map of boxed bytes takes three.
struct ShortTokens {
    slots: LargePages<(Key, u32)>,
    shift: u32,
    filter: Filter,
}

impl ShortTokens {
    fn new(tokens: usize) -> Self {
        let size = (tokens * 3 / 2).next_power_of_two().max(512);
        Self { slots: LargePages::zeroed(size), shift: 64 - size.ilog2(), filter: Filter::new(size) }
    }

    /// Begins to bring near where a key is looked for.
    #[inline]
    fn fetch(&self, key: Key) {
        let hash = key.hash();
        if self.filter.may_have(hash) {
            fetch(&raw const self.slots[(hash >> self.shift) as usize]);
        }
    }

    /// The slot of a key, or the empty one where it belongs.
    #[inline]
    fn find(&self, key: Key, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = (hash >> self.shift) as usize;
        while self.slots[at & mask].0 != key && self.slots[at & mask].0 != Key::default() {
            at += 1;
        }
        at & mask
    }

    fn insert(&mut self, key: Key, id: u32) {
        let hash = key.hash();
        self.filter.insert(hash);
        let at = self.find(key, hash);
        self.slots[at] = (key, id);
    }

    #[inline]
    fn get(&self, key: Key) -> Option<u32> {
        let hash = key.hash();
        if !self.filter.may_have(hash) {
            return None;
        }
        let (found, id) = self.slots[self.find(key, hash)];
        (found == key).then_some(id)
    }
}

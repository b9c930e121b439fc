use super::cache::{KEY_BYTES, Key};
use crate::Error;
use crate::hashing::FastMap;
use crate::vocabulary::{Entry, EntryKind, Strings};

/// The byte strings of all tokens by id, and from the byte strings of those that are text to the id.
pub(crate) struct Vocabulary {
    strings: Strings,
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
        let mut vocabulary = Self { strings, short, long: FastMap::default() };
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
                vocabulary.short.insert(Key::new(bytes, 0, bytes.len()), id as u32);
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
        let all = (0..self.len() as u32).map(|id| (id, self.bytes(id)));
        all.filter(|&(id, bytes)| self.id(bytes) == Some(id))
    }

    /// What a token decodes to; empty if there is no such token.
    #[inline]
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.strings.get(id)
    }

    /// The token whose text these bytes are.
    pub(crate) fn id(&self, bytes: &[u8]) -> Option<u32> {
        match bytes.len() {
            0 => None,
            1..=KEY_BYTES => {
                let key = Key::new(bytes, 0, bytes.len());
                self.short_id(key, key.hash())
            }
            _ => self.long.get(bytes).copied(),
        }
    }

    /// The token of a key with its hash.
    #[inline]
    pub(crate) fn short_id(&self, key: Key, hash: u64) -> Option<u32> {
        self.short.get(key, hash)
    }
}

/// An open-addressed table from keys to ids: one cache line per look-up, where a map of boxed bytes takes three.
struct ShortTokens {
    slots: Vec<(Key, u32)>,
    shift: u32,
}

impl ShortTokens {
    fn new(tokens: usize) -> Self {
        let size = (tokens * 3 / 2).next_power_of_two().max(512);
        Self { slots: vec![(Key::default(), 0); size], shift: 64 - size.ilog2() }
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
        let at = self.find(key, key.hash());
        self.slots[at] = (key, id);
    }

    #[inline]
    fn get(&self, key: Key, hash: u64) -> Option<u32> {
        let (found, id) = self.slots[self.find(key, hash)];
        (found == key).then_some(id)
    }
}

use super::cache::{KEY_BYTES, Key};
use crate::Error;
use crate::hashing::FastMap;

/// The byte strings of all BPE tokens by id, and back.
pub(crate) struct Vocabulary {
    /// All tokens one after the other.
    bytes: Vec<u8>,
    /// Token `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<u32>,
    short: ShortTokens,
    /// Tokens that are too long for a key.
    long: FastMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    /// A vocabulary from its tokens in the order of their ids.
    pub(crate) fn new<T: AsRef<[u8]>>(tokens: &[T]) -> Result<Self, Error> {
        let short = ShortTokens::new(tokens.len());
        let mut vocabulary = Self { bytes: Vec::new(), ends: vec![0], short, long: FastMap::default() };
        for token in tokens {
            let token = token.as_ref();
            let id = vocabulary.len() as u32;
            let text = String::from_utf8_lossy(token);
            if token.is_empty() {
                return Err(Error::Vocabulary(format!("token {id} is empty")));
            }
            if let Some(other) = vocabulary.id(token) {
                return Err(Error::Vocabulary(format!("tokens {other} and {id} are both {text:?}")));
            }
            if token.len() <= KEY_BYTES {
                vocabulary.short.insert(Key::new(token, 0, token.len()), id);
            } else {
                vocabulary.long.insert(token.into(), id);
            }
            vocabulary.bytes.extend_from_slice(token);
            vocabulary.ends.push(vocabulary.bytes.len() as u32);
        }
        Ok(vocabulary)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// The bytes of a token; empty if there is no such token.
    #[inline]
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        match self.ends.get(id as usize..id as usize + 2) {
            Some(ends) => &self.bytes[ends[0] as usize..ends[1] as usize],
            None => &[],
        }
    }

    /// The token of some bytes.
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

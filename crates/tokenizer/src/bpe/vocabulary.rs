use crate::Error;
use crate::hashing::FastMap;

/// The byte strings of all BPE tokens by id, and back.
pub(crate) struct Vocabulary {
    /// All tokens one after the other.
    bytes: Vec<u8>,
    /// Token `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<u32>,
    ids: FastMap<Box<[u8]>, u32>,
}

impl Vocabulary {
    /// A vocabulary from its tokens in the order of their ids.
    pub(crate) fn new<T: AsRef<[u8]>>(tokens: impl IntoIterator<Item = T>) -> Result<Self, Error> {
        let mut vocabulary = Self { bytes: Vec::new(), ends: vec![0], ids: FastMap::default() };
        for token in tokens {
            let token = token.as_ref();
            let id = vocabulary.len() as u32;
            if let Some(other) = vocabulary.ids.insert(token.into(), id) {
                let text = String::from_utf8_lossy(token);
                return Err(Error::Vocabulary(format!("tokens {other} and {id} are both {text:?}")));
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

    #[inline]
    pub(crate) fn id(&self, bytes: &[u8]) -> Option<u32> {
        self.ids.get(bytes).copied()
    }
}

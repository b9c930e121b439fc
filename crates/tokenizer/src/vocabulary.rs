//! What each id of a vocabulary is.

/// What an id is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A piece of text that encoding gives.
    Text,
    /// A single byte, for characters that have no piece (SentencePiece only).
    Byte,
    /// A token with a meaning and no text of its own, such as `<|eot_id|>`; decoding gives its name.
    Special,
    /// Text that is always this one token, found before anything else is done to a text.
    Added,
    /// An id that stands for nothing.
    Unused,
}

/// One id of a vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// What decoding gives.
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: EntryKind,
}

impl Entry {
    pub(crate) fn new(bytes: impl Into<Vec<u8>>, kind: EntryKind) -> Self {
        Self { bytes: bytes.into(), kind }
    }

    pub(crate) fn text(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(bytes, EntryKind::Text)
    }
}

/// Byte strings one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Strings {
    bytes: Vec<u8>,
    /// String `i` is `bytes[ends[i]..ends[i + 1]]`.
    ends: Vec<u32>,
}

impl Strings {
    pub(crate) fn new<'s>(strings: impl Iterator<Item = &'s [u8]>) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), vec![0]);
        for string in strings {
            bytes.extend_from_slice(string);
            ends.push(bytes.len() as u32);
        }
        Self { bytes, ends }
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len() - 1
    }

    /// String `id`; empty if there is none.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> &[u8] {
        match self.ends.get(id as usize..id as usize + 2) {
            Some(ends) => &self.bytes[ends[0] as usize..ends[1] as usize],
            None => &[],
        }
    }
}

use super::Scratch;
use crate::hashing::FastMap;

/// Longest piece worth remembering, bytes.
const LONGEST: usize = 32;
/// Pieces remembered before the cache is cleared; bounds its memory to a few megabytes.
const CAPACITY: usize = 1 << 16;

/// Tokens of pieces seen before. Owned by one thread at a time; never changes a result.
#[derive(Default)]
pub(crate) struct Cache {
    known: FastMap<Box<[u8]>, Box<[u32]>>,
    pub(crate) scratch: Scratch,
}

impl Cache {
    /// Appends the tokens of a known piece and says whether it was known.
    #[inline]
    pub(crate) fn get(&self, piece: &[u8], out: &mut Vec<u32>) -> bool {
        if piece.len() > LONGEST {
            return false;
        }
        let Some(tokens) = self.known.get(piece) else { return false };
        out.extend_from_slice(tokens);
        true
    }

    pub(crate) fn insert(&mut self, piece: &[u8], tokens: &[u32]) {
        if piece.len() > LONGEST {
            return;
        }
        if self.known.len() >= CAPACITY {
            self.known.clear();
        }
        self.known.insert(piece.into(), tokens.into());
    }
}

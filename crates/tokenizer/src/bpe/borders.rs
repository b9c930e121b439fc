use crate::hashing::mix;
use crate::split::characters::{code_point, length};

/// Where a long piece may be cut without changing its tokens: between two characters that no token spans. No merge
/// can cross such a place, so both sides encode on their own, and the short sides are found in the cache. Chinese
/// and Japanese, whose pieces are whole clauses, fall into words of one to three characters this way.
///
/// A set of hashes: a collision only means that a place is not used.
pub(crate) struct Borders {
    spanned: Vec<u64>,
    shift: u32,
}

/// What stands on one side of a place inside a token: a whole character, or as much of one as the token has. Of
/// those only the byte next to the place is used, which spans too much rather than too little.
const WHOLE: u64 = 0;
const PART_BEFORE: u64 = 1 << 62;
const PART_AFTER: u64 = 1 << 63;

impl Borders {
    /// The borders that a vocabulary leaves.
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = &'t [u8]> + Clone) -> Self {
        let places: usize = tokens.clone().map(|token| token.len().min(12)).sum();
        let bits = (places / 2).next_power_of_two().clamp(1 << 12, 1 << 20);
        let mut borders = Self { spanned: vec![0; bits / 64], shift: 64 - bits.ilog2() };
        for token in tokens {
            // Where the character before begins.
            let mut before = None;
            for at in (0..token.len()).filter(|&at| token[at] & 0xc0 != 0x80) {
                let before = before.replace(at);
                if at == 0 {
                    continue;
                }
                let left = match before {
                    Some(start) => (WHOLE, code_point(&token[start..at]) as u64),
                    None => (PART_BEFORE, u64::from(token[at - 1])),
                };
                let end = at + length(token[at]);
                let right = match token.get(at..end) {
                    Some(whole) => (WHOLE, code_point(whole) as u64),
                    None => (PART_AFTER, u64::from(token[at])),
                };
                borders.mark(left.0 | right.0 | left.1 << 24 | right.1);
            }
        }
        borders
    }

    fn bit(&self, place: u64) -> (usize, u64) {
        let hash = mix(place) >> self.shift;
        ((hash / 64) as usize, 1 << (hash % 64))
    }

    fn mark(&mut self, place: u64) {
        let (word, bit) = self.bit(place);
        self.spanned[word] |= bit;
    }

    #[inline]
    fn is_marked(&self, place: u64) -> bool {
        let (word, bit) = self.bit(place);
        self.spanned[word] & bit != 0
    }

    /// The first border after `start` in a piece that ends at `end`; `end` if there is none.
    #[inline]
    pub(crate) fn next(&self, text: &[u8], start: usize, end: usize) -> usize {
        let mut at = start + length(text[start]);
        let mut left = code_point(&text[start..at]) as u64;
        while at < end {
            let next = at + length(text[at]);
            let right = code_point(&text[at..next]) as u64;
            let (before, after) = (u64::from(text[at - 1]), u64::from(text[at]));
            let spanned = self.is_marked(left << 24 | right)
                || self.is_marked(PART_AFTER | left << 24 | after)
                || self.is_marked(PART_BEFORE | before << 24 | right)
                || self.is_marked(PART_BEFORE | PART_AFTER | before << 24 | after);
            if !spanned {
                return at;
            }
            (left, at) = (right, next);
        }
        end
    }
}

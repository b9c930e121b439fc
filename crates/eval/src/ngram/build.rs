//! Counting and discounting: from documents to sorted n-grams with their adjusted counts.

use super::{Documents, NGramError};
use rayon::prelude::*;

/// The highest order: three tokens of 21 bits fit into a 64-bit key.
pub const MAX_ORDER: usize = 3;

/// Keys sorted at once (512 MB); a larger corpus is counted in several passes, each over a range of first tokens.
const KEYS_PER_PASS: u64 = 64 << 20;

/// Documents read by one unit of parallel work.
const DOCUMENTS_PER_UNIT: usize = 64;

/// The discounts of one order for n-grams seen once, twice, and more often.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Discounts(pub [f64; 3]);

impl Discounts {
    /// Chen and Goodman's estimate from the numbers of n-grams seen exactly 1, 2, 3 and 4 times:
    /// `Y = n1 / (n1 + 2 n2)`, `D_k = k - (k + 1) Y n_(k+1) / n_k`. Counts of counts for which this is not between 0
    /// and `k` (tiny or artificial corpora) give KenLM's fallback 0.5, 1, 1.5.
    pub fn from_counts_of_counts(n: [u64; 4]) -> Self {
        let fallback = Self([0.5, 1.0, 1.5]);
        if n[..3].contains(&0) {
            return fallback;
        }
        let n = n.map(|count| count as f64);
        let y = n[0] / (n[0] + 2.0 * n[1]);
        let d = [1.0, 2.0, 3.0].map(|k: f64| k - (k + 1.0) * y * n[k as usize] / n[k as usize - 1]);
        if d.iter().zip([1.0, 2.0, 3.0]).all(|(&d, k)| (0.0..=k).contains(&d)) { Self(d) } else { fallback }
    }

    /// The discount of an n-gram with this count.
    pub fn of(&self, count: u32) -> f64 {
        match count {
            0 => 0.0,
            1 => self.0[0],
            2 => self.0[1],
            _ => self.0[2],
        }
    }
}

/// The n-grams of one order, sorted, with their adjusted counts.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Packed tokens, the first in the highest bits; strictly ascending.
    pub keys: Vec<u64>,
    pub counts: Vec<u32>,
}

impl Counted {
    pub fn discounts(&self) -> Discounts {
        let mut n = [0u64; 4];
        for &count in &self.counts {
            if (1..=4).contains(&count) {
                n[count as usize - 1] += 1;
            }
        }
        Discounts::from_counts_of_counts(n)
    }

    /// Appends sorted keys, equal ones counted together.
    fn append(&mut self, sorted: &[u64]) {
        for run in sorted.chunk_by(|a, b| a == b) {
            self.keys.push(run[0]);
            self.counts.push(u32::try_from(run.len()).unwrap_or(u32::MAX));
        }
    }
}

/// What counting needs to know about the corpus.
pub(super) struct Corpus<'a, D: Documents + ?Sized> {
    pub documents: &'a D,
    pub vocabulary: usize,
    /// Bits of one token in a key.
    pub bits: u32,
}

impl<D: Documents + ?Sized> Corpus<'_, D> {
    /// Runs `work` on every document, in parallel over fixed units; results come in the order of the units.
    fn each<T: Send>(&self, work: impl Fn(&mut T, &[u32]) + Sync, empty: impl Fn() -> T + Sync) -> Vec<T> {
        let units = self.documents.count().div_ceil(DOCUMENTS_PER_UNIT);
        (0..units)
            .into_par_iter()
            .map(|unit| {
                let mut result = empty();
                let mut ids = Vec::new();
                let first = unit * DOCUMENTS_PER_UNIT;
                for index in first..(first + DOCUMENTS_PER_UNIT).min(self.documents.count()) {
                    self.documents.copy(index, &mut ids);
                    work(&mut result, &ids);
                }
                result
            })
            .collect()
    }

    /// Checks every document and returns how often each token occurs, and the token with which all begin.
    pub fn check(&self) -> Result<(Vec<u64>, Option<u32>), NGramError> {
        let mut totals = vec![0u64; self.vocabulary];
        let mut begin = None;
        let mut ids = Vec::new();
        for document in 0..self.documents.count() {
            self.documents.copy(document, &mut ids);
            let wrong = |problem: String| NGramError::Document {
                source_name: self.documents.source(),
                document,
                problem,
            };
            let &first = ids.first().ok_or_else(|| wrong("is empty".to_string()))?;
            if *begin.get_or_insert(first) != first {
                return Err(wrong(format!("begins with token {first}, not with <|begin_of_text|>")));
            }
            for &id in &ids {
                let slot = totals.get_mut(id as usize);
                *slot.ok_or_else(|| {
                    wrong(format!("holds token {id}, but the vocabulary ends at {}", self.vocabulary))
                })? += 1;
            }
            if ids[1..].contains(&first) {
                return Err(wrong("repeats its first token inside".to_string()));
            }
        }
        Ok((totals, begin))
    }

    /// Raw counts of all n-grams of `order` tokens inside documents. Order 1 leaves out the first token, which is
    /// never predicted.
    pub fn raw(&self, order: usize, totals: &[u64]) -> Counted {
        let mut counted = Counted::default();
        let mut from = 0;
        while from < self.vocabulary {
            let mut to = from;
            let mut expected = 0;
            while to < self.vocabulary && (to == from || expected + totals[to] <= KEYS_PER_PASS) {
                expected += totals[to];
                to += 1;
            }
            let range = from as u32..to as u32;
            let parts = self.each(
                |keys: &mut Vec<u64>, ids| {
                    let ids = if order == 1 { &ids[1..] } else { ids };
                    let grams = ids.windows(order).filter(|gram| range.contains(&gram[0]));
                    keys.extend(grams.map(|gram| self.key(gram)));
                },
                Vec::new,
            );
            let mut keys = Vec::with_capacity(parts.iter().map(Vec::len).sum());
            for part in parts {
                keys.extend_from_slice(&part);
            }
            keys.par_sort_unstable();
            counted.append(&keys);
            from = to;
        }
        counted
    }

    /// Adjusted counts one order below `longer`: how many different tokens precede each n-gram. Those that open a
    /// document keep their raw count.
    pub fn adjusted(&self, longer: &Counted, order: usize) -> Counted {
        let mask = (1u64 << (self.bits * order as u32)) - 1;
        let mut keys: Vec<u64> = longer.keys.par_iter().map(|key| key & mask).collect();
        if order > 1 {
            let openings = self.each(
                |keys: &mut Vec<u64>, ids| keys.extend(ids.get(..order).map(|gram| self.key(gram))),
                Vec::new,
            );
            keys.extend(openings.into_iter().flatten());
        }
        keys.par_sort_unstable();
        let mut counted = Counted::default();
        counted.append(&keys);
        counted
    }

    fn key(&self, gram: &[u32]) -> u64 {
        gram.iter().fold(0, |key, &id| key << self.bits | u64::from(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discounts_follow_the_formula_and_fall_back() {
        // n = 4, 2, 1, 1: Y = 0.5, D1 = 1 - 2*0.5*2/4, D2 = 2 - 3*0.5*1/2, D3 = 3 - 4*0.5*1/1.
        assert_eq!(Discounts::from_counts_of_counts([4, 2, 1, 1]).0, [0.5, 1.25, 1.0]);
        assert_eq!(Discounts::from_counts_of_counts([4, 0, 1, 1]).0, [0.5, 1.0, 1.5]);
        // D1 would be negative: 1 - 2 (1/21) 10/1 = 0.05 is fine, 3 n3 too large is not.
        assert_eq!(Discounts::from_counts_of_counts([10, 1, 90, 1]).0, [0.5, 1.0, 1.5]);
        let d = Discounts([0.5, 1.25, 1.0]);
        assert_eq!([0, 1, 2, 3, 99].map(|c| d.of(c)), [0.0, 0.5, 1.25, 1.0, 1.0]);
    }
}

//! Random numbers that are a pure function of a key and a counter: nothing to save, nothing that depends on the
//! order in which threads ask.

/// A keyed counter-based generator (the SplitMix64 finaliser over key and counter).
#[derive(Debug, Clone, Copy)]
pub struct Random {
    key: u64,
}

/// SplitMix64's finaliser: a bijection of `u64` in which every input bit moves every output bit.
fn scramble(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Random {
    /// A generator for one purpose: `path` separates independent streams of one seed, such as `[domain, epoch]`.
    pub fn new(seed: u64, path: &[u64]) -> Self {
        let root = Self { key: scramble(seed ^ 0x9e37_79b9_7f4a_7c15) };
        path.iter().fold(root, |random, &part| random.stream(part))
    }

    /// The generator for one part of this one's purpose, by number.
    pub fn stream(&self, part: u64) -> Self {
        Self { key: scramble(self.key ^ scramble(!part)) }
    }

    /// The generator for one part of this one's purpose, by name.
    pub fn named(&self, part: &str) -> Self {
        part.bytes().fold(*self, |random, byte| random.stream(u64::from(byte)))
    }

    /// The number at `counter`, uniform over all of `u64`.
    pub fn at(&self, counter: u64) -> u64 {
        scramble(self.key.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// The number at `counter`, uniform in `0..bound` (bias below `bound` / 2^64). `bound` is at least 1.
    pub fn below(&self, counter: u64, bound: u64) -> u64 {
        ((self.at(counter) as u128 * bound as u128) >> 64) as u64
    }

    /// An index below `len` (0 if there is none), drawn at `counter`.
    pub fn pick(&self, counter: u64, len: usize) -> usize {
        self.below(counter, len as u64) as usize
    }

    /// Puts `items` into a random order (Fisher and Yates).
    pub fn shuffle<T>(&self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.pick(last as u64, last + 1));
        }
    }

    /// The numbers `0..n` in a random order.
    pub fn order(&self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        self.shuffle(&mut order);
        order
    }
}

/// A permutation of `0..len` that is computed point by point: no table, so an epoch over a billion documents costs
/// nothing to begin or to resume. A four-round Feistel network over the next power of four, walked until it lands
/// inside.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    rounds: [Random; 4],
}

impl Permutation {
    /// The permutation of `0..len` that belongs to a seed and a path.
    pub fn new(len: u64, seed: u64, path: &[u64]) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let root = Random::new(seed, path);
        let rounds = [0, 1, 2, 3].map(|round| Random::new(root.at(round), &[]));
        Self { len, half_bits: bits.div_ceil(2).max(1), rounds }
    }

    /// Where `index` (below `len`) goes.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in &self.rounds {
                (left, right) = (right, left ^ (round.at(right) & mask));
            }
            x = left << self.half_bits | right;
            if x < self.len {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_streams_differ() {
        let random = Random::new(7, &[]);
        let mut counts = [0usize; 10];
        for i in 0..100_000 {
            counts[random.pick(i, 10)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
        assert_ne!(random.stream(0).at(0), random.stream(1).at(0));
        assert_ne!(random.named("needle").at(0), random.named("choice").at(0));
        assert_eq!(random.pick(3, 0), 0);
        let mut order = random.order(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_permutation_visits_everything_once_and_depends_on_its_path() {
        for len in [1, 2, 3, 7, 64, 1000] {
            let order = |path: &[u64]| {
                let p = Permutation::new(len, 5, path);
                (0..len).map(|i| p.at(i)).collect::<Vec<_>>()
            };
            let mut sorted = order(&[0]);
            sorted.sort();
            assert_eq!(sorted, (0..len).collect::<Vec<_>>(), "{len}");
            if len >= 64 {
                assert_ne!(order(&[0]), order(&[1]), "epochs differ");
                assert_ne!(order(&[0]), (0..len).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn first_places_are_spread_evenly_over_seeds() {
        let mut hits = [0u32; 10];
        for seed in 0..10_000 {
            hits[Permutation::new(10, seed, &[3]).at(0) as usize] += 1;
        }
        // Chi-square with 9 degrees of freedom: 27.9 is the 99.9% point.
        let chi: f64 = hits.iter().map(|&h| (h as f64 - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi < 27.9, "{hits:?}");
    }

    #[test]
    fn numbers_below_a_bound_are_uniform() {
        let random = Random::new(1, &[2, 3]);
        let mut hits = [0u32; 7];
        (0..70_000).for_each(|i| hits[random.below(i, 7) as usize] += 1);
        assert!(hits.iter().all(|&h| (9_600..10_400).contains(&h)), "{hits:?}");
    }
}

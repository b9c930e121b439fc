//! Counter-based random numbers: a draw depends only on the seed and its place, never on the order of execution.

/// A seed from which any draw can be computed on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Random(u64);

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }

    /// An independent generator for one part of the work, such as one task or one example.
    pub fn stream(self, index: u64) -> Self {
        Self(mix(self.0 ^ mix(index.wrapping_add(0x9e37_79b9_7f4a_7c15))))
    }

    /// The same, for a part known by its name.
    pub fn named(self, name: &str) -> Self {
        name.bytes().fold(self, |random, byte| random.stream(u64::from(byte)))
    }

    /// Draw number `index`: 64 random bits.
    pub fn bits(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Draw number `index`, uniform in `0..bound`; 0 if `bound` is 0. The bias is below `bound` / 2^64.
    pub fn below(self, index: u64, bound: usize) -> usize {
        ((u128::from(self.bits(index)) * bound as u128) >> 64) as usize
    }

    /// A permutation of `0..n` (Fisher-Yates).
    pub fn permutation(self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i as u64, i + 1));
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_uniform_and_streams_differ() {
        let random = Random::new(7);
        let mut counts = [0usize; 10];
        for i in 0..100_000 {
            counts[random.below(i, 10)] += 1;
        }
        assert!(counts.iter().all(|&c| (9_600..10_400).contains(&c)), "{counts:?}");
        assert_ne!(random.stream(0).bits(0), random.stream(1).bits(0));
        assert_ne!(random.named("needle").bits(0), random.named("choice").bits(0));
        assert_eq!(random.below(3, 0), 0);
    }

    #[test]
    fn a_permutation_holds_everything_once() {
        let mut order = Random::new(1).permutation(1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
    }
}

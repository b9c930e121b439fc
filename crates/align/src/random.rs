//! A counter-based generator: the numbers depend on the seed and the place alone, never on how far a process came.

/// SplitMix64 seeded by a list of numbers (seed, epoch, ...).
pub(crate) struct Random(u64);

impl Random {
    /// The stream that belongs to `place`.
    pub(crate) fn at(place: &[u64]) -> Self {
        place
            .iter()
            .fold(Self(0x9e37_79b9_7f4a_7c15), |state, &part| Self(mix(state.0 ^ mix(part.wrapping_add(1)))))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`, which is above 0 (multiply-shift; the bias is below 2^-32 for the sizes used here).
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Shuffles in place (Fisher-Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_shuffle_is_a_permutation_that_depends_on_its_place() {
        let at = |place: &[u64]| {
            let mut items: Vec<usize> = (0..100).collect();
            Random::at(place).shuffle(&mut items);
            items
        };
        let mut sorted = at(&[1, 2]);
        assert_eq!(at(&[1, 2]), sorted);
        assert_ne!(at(&[1, 3]), sorted);
        assert_ne!(at(&[2, 1]), sorted);
        sorted.sort();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }
}

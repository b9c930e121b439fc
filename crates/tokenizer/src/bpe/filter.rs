use crate::large_pages::LargePages;

/// Bits of the filter for each slot of its table, as a power of two.
const BITS_PER_SLOT: u32 = 2;

/// Which hashes a table surely does not have: a bit for each value of their first bits, set if one in the table has it.
/// Most of what tables are asked for is not in them, and these few bits are nearer to the processor than their slots.
pub(super) struct Filter {
    bits: LargePages<u64>,
    shift: u32,
}

impl Filter {
    /// A filter for a table of `slots` slots, a power of two of at least 2 and at most 2^60.
    pub(super) fn new(slots: usize) -> Self {
        let shift = u64::BITS - slots.ilog2() - BITS_PER_SLOT;
        Self { bits: LargePages::zeroed((slots << BITS_PER_SLOT).div_ceil(64)), shift }
    }

    #[inline]
    fn place(&self, hash: u64) -> (usize, u64) {
        let place = hash >> self.shift;
        ((place / 64) as usize, 1 << (place % 64))
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let (word, bit) = self.place(hash);
        self.bits[word] |= bit;
    }

    /// Whether the table may have a hash.
    #[inline]
    pub(super) fn may_have(&self, hash: u64) -> bool {
        let (word, bit) = self.place(hash);
        self.bits[word] & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashing::mix;

    #[test]
    fn what_is_inserted_is_found_and_most_else_is_not() {
        for slots in [2, 64, 4096] {
            let mut filter = Filter::new(slots);
            let half = slots as u64 / 2;
            (0..half).for_each(|i| filter.insert(mix(i)));
            assert!((0..half).all(|i| filter.may_have(mix(i))));
            let wrong = (half..1000 + half).filter(|&i| filter.may_have(mix(i))).count();
            assert!(wrong < 300, "{wrong} of 1000");
        }
    }
}

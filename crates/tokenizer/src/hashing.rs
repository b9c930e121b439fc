//! A fast hash for tables that live inside this process. Not for untrusted keys that an attacker could choose to
//! collide at scale: the tables that use it on text are bounded.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with [`FastHasher`]. Its order is never part of an output.
pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// Multiply and fold, eight bytes at a time.
#[derive(Default, Clone, Copy)]
pub(crate) struct FastHasher(u64);

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Mixes all bits of `a` into all bits of the result.
#[inline]
pub(crate) fn mix(a: u64) -> u64 {
    let product = u128::from(a) * u128::from(MULTIPLIER);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Lengths of which [`blocks`] covers all bytes.
pub(crate) const IN_BLOCKS: std::ops::RangeInclusive<usize> = 16..=64;

/// Four blocks of sixteen bytes that cover a piece of [`IN_BLOCKS`], where need be one over the other: whatever the
/// length, the same instructions, and nothing for the processor to predict.
#[inline(always)]
pub(crate) fn blocks(piece: &[u8]) -> [[u64; 2]; 4] {
    let last = piece.len() - 16;
    [0, 16.min(last), 32.min(last), last].map(|at| {
        let sixteen = piece[at..].first_chunk::<16>().expect("the last block begins 16 bytes before the end");
        let [low, high] = [0, 8].map(|half| sixteen[half..].first_chunk().expect("16 bytes are twice 8"));
        [u64::from_le_bytes(*low), u64::from_le_bytes(*high)]
    })
}

/// A hash of some bytes: sixteen at a time, independent of each other, so that the products overlap.
#[inline]
pub(crate) fn of_bytes(piece: &[u8]) -> u64 {
    const KEYS: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];
    let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight));
    let fold = |low: u64, high: u64, key: u64| {
        let product = u128::from(low ^ key) * u128::from(high ^ KEYS[1]);
        product as u64 ^ (product >> 64) as u64
    };
    let (mut hash, mut key) = (piece.len() as u64, KEYS[0]);
    let mut add = |low: u64, high: u64| {
        hash ^= fold(low, high, key);
        key = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    };
    if IN_BLOCKS.contains(&piece.len()) {
        blocks(piece).into_iter().for_each(|[low, high]| add(low, high));
    } else {
        piece.chunks_exact(16).for_each(|chunk| add(number(chunk), number(&chunk[8..])));
        let mut last = [0; 16];
        match piece.last_chunk::<16>() {
            Some(bytes) => last = *bytes,
            None => last[..piece.len()].copy_from_slice(piece),
        }
        add(number(&last), number(&last[8..]));
    }
    mix(hash)
}

impl Hasher for FastHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            self.write_u64(u64::from_le_bytes(chunk.try_into().unwrap_or_default()));
        }
        let rest = chunks.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value).wrapping_add(MULTIPLIER);
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

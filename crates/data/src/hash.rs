//! Hashes that are the same on every machine and in every version: what they decide ends up in files.

use std::hash::{BuildHasherDefault, Hasher};

/// Mixes 64 bits well (the finaliser of SplitMix64; Steele et al. 2014).
pub fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Hash of bytes, eight at a time.
pub fn of_bytes(bytes: &[u8]) -> u64 {
    let mut hash = 0x9E37_79B9_7F4A_7C15 ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes([
            chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7],
        ]);
        hash = (hash ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93).rotate_left(29);
    }
    let rest = chunks.remainder().iter().rev().fold(0u64, |word, b| word << 8 | *b as u64);
    mix((hash ^ rest).wrapping_mul(0xD6E8_FEB8_6659_FD93))
}

/// Hash of a word, the same for upper and lower case.
pub fn of_word(word: &str) -> u64 {
    if word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return of_bytes(word.as_bytes());
    }
    of_bytes(word.to_lowercase().as_bytes())
}

/// Hash of a sequence of hashes.
pub fn of_sequence(hashes: &[u64]) -> u64 {
    mix(hashes
        .iter()
        .fold(hashes.len() as u64, |sum, h| (sum ^ h).wrapping_mul(0x9FB2_1C65_1E98_DF25).rotate_left(23)))
}

/// A hasher for keys that are hashes already.
#[derive(Default)]
pub struct Same(u64);

/// Builds [`Same`].
pub type Identity = BuildHasherDefault<Same>;

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 ^= of_bytes(bytes);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

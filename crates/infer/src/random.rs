//! Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").
//!
//! The number for (seed, stream, position) is a pure function, so a sample does not depend on what else was sampled
//! before it or beside it.

const ROUND_MULTIPLIERS: (u32, u32) = (0xD251_1F53, 0xCD9E_8D57);
const KEY_STEPS: (u32, u32) = (0x9E37_79B9, 0xBB67_AE85);

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(ROUND_MULTIPLIERS.0) * u64::from(counter[0]);
        let b = u64::from(ROUND_MULTIPLIERS.1) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS.0), key[1].wrapping_add(KEY_STEPS.1)];
    }
    counter
}

/// A uniform number in [0, 1) with 53 random bits.
pub(crate) fn uniform(seed: u64, stream: u64, position: u64) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, stream as u32, (stream >> 32) as u32];
    let [a, b, ..] = philox(counter, [seed as u32, (seed >> 32) as u32]);
    (u64::from(a) << 21 ^ u64::from(b) >> 11) as f64 / (1u64 << 53) as f64
}

/// A 64-bit mark of a token sequence (FNV-1a), which gives every prompt its own random stream.
pub(crate) fn stream_of(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0xCBF2_9CE4_8422_2325, |hash, &token| {
        token.to_le_bytes().iter().fold(hash, |h, &byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_vectors() {
        // From the Random123 distribution, kat_vectors, philox4x32 10 rounds.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn uniform_fills_the_unit_interval_evenly() {
        let mut buckets = [0u32; 10];
        for position in 0..10_000 {
            buckets[(uniform(7, 3, position) * 10.0) as usize] += 1;
        }
        assert!(buckets.iter().all(|&b| (900..1100).contains(&b)), "{buckets:?}");
    }
}

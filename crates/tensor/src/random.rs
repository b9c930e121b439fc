//! A counter-based random generator: value `i` of a stream depends on the seed, the stream and `i` only, so any part
//! can be drawn by any thread.

/// Random numbers addressed by index, by the SplitMix64 finaliser over (key, index).
#[derive(Clone, Copy, Debug)]
pub struct CounterRng {
    key: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl CounterRng {
    /// The generator of `seed` for the stream called `name`.
    pub fn new(seed: u64, name: &str) -> Self {
        let mut key = mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
        for byte in name.bytes() {
            key = mix(key ^ u64::from(byte)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        }
        Self { key }
    }

    /// 64 random bits.
    pub fn bits(&self, index: u64) -> u64 {
        mix(mix(self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15))) ^ self.key.rotate_left(32))
    }

    /// Uniform in [0, 1).
    pub fn uniform(&self, index: u64) -> f64 {
        (self.bits(index) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller; indices `2i` and `2i + 1` share one pair of uniforms.
    pub fn normal(&self, index: u64) -> f64 {
        let pair = index & !1;
        // 1 - u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform(pair)).ln()).sqrt();
        let angle = std::f64::consts::TAU * self.uniform(pair + 1);
        radius * if index & 1 == 0 { angle.cos() } else { angle.sin() }
    }
}

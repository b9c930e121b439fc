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

    /// Two independent standard normals for an even index, by Box and Muller.
    pub fn normal_pair(&self, index: u64) -> (f64, f64) {
        // 1 - u is in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform(index)).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform(index + 1)).sin_cos();
        (radius * cos, radius * sin)
    }

    /// Standard normal; indices `2i` and `2i + 1` share one pair of uniforms.
    pub fn normal(&self, index: u64) -> f64 {
        let (even, odd) = self.normal_pair(index & !1);
        if index & 1 == 0 { even } else { odd }
    }
}

#[cfg(test)]
mod tests {
    use super::CounterRng;

    #[test]
    fn normals_have_the_moments_of_normals() {
        let rng = CounterRng::new(3, "moments");
        let draws: Vec<f64> = (0..200_000).map(|i| rng.normal(i)).collect();
        let moment = |p: i32| draws.iter().map(|x| x.powi(p)).sum::<f64>() / draws.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 1.0).abs() < 0.01);
        assert!(moment(3).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.1);
        let neighbours = draws.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / draws.len() as f64;
        assert!(neighbours.abs() < 0.01, "neighbours are correlated: {neighbours}");
    }

    #[test]
    fn streams_and_seeds_differ() {
        let bits = |seed, name| CounterRng::new(seed, name).bits(0);
        assert_ne!(bits(1, "a"), bits(1, "b"));
        assert_ne!(bits(1, "a"), bits(2, "a"));
    }
}

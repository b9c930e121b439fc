//! What the processor could do: multiply-adds on registers alone, which no memory slows down.

use crate::isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use std::time::Instant;

/// Independent sums, enough to hide the latency of a multiply-add on two units.
const SUMS: usize = 12;
const ROUNDS: usize = 3_000_000;

/// Floating-point operations per second of f32 multiply-adds on all threads of the current rayon pool, with the
/// instruction set in use ([`isa::active`]): the best of several short runs. Takes about a tenth of a second.
pub fn measured_flops() -> f64 {
    let (body, lanes): (fn(f32) -> f32, usize) = match isa::active() {
        // SAFETY: `active` is never above what this machine has.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => (|x| unsafe { x86::avx512(x) }, 16),
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (|x| unsafe { x86::avx2(x) }, 8),
        _ => (portable, 4),
    };
    let operations = (2 * SUMS * lanes * ROUNDS * rayon::current_num_threads()) as f64;
    let run = || {
        let started = Instant::now();
        let sums = rayon::broadcast(|context| body(std::hint::black_box(context.index() as f32)));
        std::hint::black_box(sums);
        operations / started.elapsed().as_secs_f64()
    };
    (0..10).map(|_| run()).fold(0.0, f64::max)
}

fn portable(x: f32) -> f32 {
    let mut sums = [[x; 4]; SUMS];
    for _ in 0..ROUNDS {
        for value in sums.as_flattened_mut() {
            *value = if isa::PORTABLE_FMA { value.mul_add(0.5, 1.0) } else { *value * 0.5 + 1.0 };
        }
    }
    sums.as_flattened().iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{ROUNDS, SUMS};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f")]
    pub fn avx512(x: f32) -> f32 {
        let (half, one) = (_mm512_set1_ps(0.5), _mm512_set1_ps(1.0));
        let mut sums = [_mm512_set1_ps(x); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, half, one);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2(x: f32) -> f32 {
        let (half, one) = (_mm256_set1_ps(0.5), _mm256_set1_ps(1.0));
        let mut sums = [_mm256_set1_ps(x); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, half, one);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
}

//! 95% intervals: for a share of right answers (normal, as in the paper, and Wilson), and for a ratio of sums over
//! documents (bootstrap), alone and as a paired difference.

use herd_run::Random;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// The 97.5% quantile of the normal distribution, as the paper rounds it (SPEC EVAL-1).
const Z: f64 = 1.96;

/// Resamples drawn by the bootstrap.
pub const RESAMPLES: usize = 2000;

/// The two ends of a 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// A share of right answers with its intervals.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Proportion {
    /// Right answers over all, 0 if there were none.
    pub score: f64,
    /// Right answers.
    pub right: usize,
    /// Examples.
    pub n: usize,
    /// `score ± 1.96 sqrt(score (1 - score) / n)`, the paper's interval (SPEC EVAL-1), cut to 0..1. It has no width
    /// when the score is 0 or 1.
    pub normal: Interval,
    /// Wilson's score interval, which stays honest near 0 and 1 and for small `n`.
    pub wilson: Interval,
}

impl Proportion {
    /// `right` of `n` answers were right.
    pub fn new(right: usize, n: usize) -> Self {
        if n == 0 {
            let unknown = Interval { low: 0.0, high: 1.0 };
            return Self { score: 0.0, right: 0, n: 0, normal: unknown, wilson: unknown };
        }
        let count = n as f64;
        let score = right as f64 / count;
        let half = Z * (score * (1.0 - score) / count).sqrt();
        let normal = Interval { low: (score - half).max(0.0), high: (score + half).min(1.0) };
        let denominator = 1.0 + Z * Z / count;
        let centre = (score + Z * Z / (2.0 * count)) / denominator;
        let spread = Z / denominator * (score * (1.0 - score) / count + Z * Z / (4.0 * count * count)).sqrt();
        // At the ends the bound is exactly 0 or 1; rounding must not say otherwise.
        let wilson = Interval {
            low: if right == 0 { 0.0 } else { (centre - spread).max(0.0) },
            high: if right == n { 1.0 } else { (centre + spread).min(1.0) },
        };
        Self { score, right, n, normal, wilson }
    }
}

/// A ratio of two sums over documents (such as bits over bytes) with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Sum of numerators over sum of denominators.
    pub score: f64,
    /// Percentile bootstrap over documents, [`RESAMPLES`] resamples; absent for fewer than two documents.
    pub interval: Option<Interval>,
    /// Documents.
    pub n: usize,
}

/// The difference of two systems on the same documents.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// First system's ratio minus the second's; negative means that the first needs fewer bits.
    pub difference: f64,
    /// Percentile bootstrap of the difference, the same resampled documents for both systems.
    pub interval: Option<Interval>,
    /// Share of resamples in which the first system is not better (the one-sided bootstrap p-value); 1 if it cannot
    /// be known. The smallest value it can show is 1 / ([`RESAMPLES`] + 1).
    pub p_value: f64,
    /// Documents on which the first system needs fewer bits.
    pub wins: usize,
    /// Documents compared.
    pub n: usize,
}

/// Ratio of sums `Σ numerator / Σ denominator` over documents, with a seeded percentile bootstrap over documents:
/// tokens of one document are not independent, documents nearly are.
pub fn ratio(pairs: &[(f64, f64)], seed: u64) -> Ratio {
    let score = ratio_of(pairs.iter().copied());
    let interval = (pairs.len() >= 2)
        .then(|| percentiles(resample(pairs.len(), seed, |draw| ratio_of(draw.map(|i| pairs[i])))));
    Ratio { score, interval, n: pairs.len() }
}

/// Paired bootstrap over documents. `triples` holds, for each document, the first system's numerator, the second's,
/// and the common denominator.
pub fn paired(triples: &[(f64, f64, f64)], seed: u64) -> Paired {
    let n = triples.len();
    let difference = ratio_of(triples.iter().map(|&(a, b, d)| (a - b, d)));
    let wins = triples.iter().filter(|(a, b, _)| a < b).count();
    if n < 2 {
        return Paired { difference, interval: None, p_value: 1.0, wins, n };
    }
    let draws = resample(n, seed, |draw| {
        ratio_of(draw.map(|i| {
            let (a, b, d) = triples[i];
            (a - b, d)
        }))
    });
    let not_better = draws.iter().filter(|&&d| d >= 0.0).count();
    let p_value = (not_better + 1) as f64 / (draws.len() + 1) as f64;
    Paired { difference, interval: Some(percentiles(draws)), p_value, wins, n }
}

fn ratio_of(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (top, bottom) = pairs.fold((0.0, 0.0), |(top, bottom), (t, b)| (top + t, bottom + b));
    if bottom > 0.0 { top / bottom } else { 0.0 }
}

/// `statistic` of [`RESAMPLES`] draws of `n` indices with replacement.
fn resample(
    n: usize,
    seed: u64,
    statistic: impl Fn(&mut dyn Iterator<Item = usize>) -> f64 + Sync,
) -> Vec<f64> {
    let random = Random::new(seed, &[]);
    (0..RESAMPLES as u64)
        .into_par_iter()
        .map(|r| {
            let stream = random.stream(r);
            statistic(&mut (0..n as u64).map(|j| stream.pick(j, n)))
        })
        .collect()
}

fn percentiles(mut draws: Vec<f64>) -> Interval {
    draws.sort_unstable_by(f64::total_cmp);
    let at = |q: f64| {
        // Linear interpolation between order statistics, as numpy's default.
        let place = q * (draws.len() - 1) as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(draws.len() - 1);
        draws[below] + (draws[above] - draws[below]) * (place - below as f64)
    };
    Interval { low: at(0.025), high: at(0.975) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportions_agree_with_published_values() {
        // 81 of 263: the worked example of Newcombe (1998), Wilson 0.2553..0.3662, Wald 0.2522..0.3638.
        let p = Proportion::new(81, 263);
        assert!((p.wilson.low - 0.2553).abs() < 1e-4 && (p.wilson.high - 0.3662).abs() < 1e-4, "{p:?}");
        assert!((p.normal.low - 0.2522).abs() < 1e-4 && (p.normal.high - 0.3638).abs() < 1e-4, "{p:?}");
    }

    #[test]
    fn the_wilson_interval_has_width_where_the_normal_one_has_none() {
        let all = Proportion::new(20, 20);
        assert_eq!(all.normal, Interval { low: 1.0, high: 1.0 });
        assert!(all.wilson.low > 0.8 && all.wilson.low < 0.9 && all.wilson.high == 1.0, "{all:?}");
        let none = Proportion::new(0, 20);
        assert!(none.wilson.low == 0.0 && none.wilson.high > 0.1);
        assert_eq!(Proportion::new(0, 0).wilson, Interval { low: 0.0, high: 1.0 });
    }

    #[test]
    fn the_bootstrap_has_the_width_that_theory_gives() {
        // A mean of n values of variance s^2 has the interval ± 1.96 s / sqrt(n).
        let random = Random::new(3, &[]);
        let pairs: Vec<_> = (0..400).map(|i| (random.pick(i, 1000) as f64 / 1000.0, 1.0)).collect();
        let ratio = ratio(&pairs, 11);
        let interval = ratio.interval.unwrap();
        let expected = 2.0 * 1.96 * (1.0f64 / 12.0).sqrt() / 20.0;
        assert!((interval.high - interval.low - expected).abs() < 0.1 * expected, "{interval:?}");
        assert!(interval.low < ratio.score && ratio.score < interval.high);
    }

    #[test]
    fn a_paired_test_sees_what_unpaired_intervals_hide() {
        // Documents differ much, the systems differ little but always in one direction.
        let random = Random::new(5, &[]);
        let triples: Vec<_> = (0..50)
            .map(|i| {
                let bits = 100.0 + random.pick(i, 900) as f64;
                (bits * 0.99, bits, 100.0)
            })
            .collect();
        let test = paired(&triples, 1);
        assert!(test.interval.unwrap().high < 0.0 && test.p_value < 0.01 && test.wins == 50, "{test:?}");
        let same: Vec<_> = triples.iter().map(|&(_, b, d)| (b, b, d)).collect();
        assert!(paired(&same, 1).p_value > 0.99);
        assert_eq!(paired(&triples[..1], 1).interval, None);
    }
}

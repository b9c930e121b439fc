//! What a classifier does on texts it has not seen: precision, recall and the area under the ROC curve of each label, with
//! 95% intervals from resampled texts, and what each cut-off would keep.

use super::Labelled;
use herd_run::random::Random;
use rayon::prelude::*;
use serde::Serialize;

/// Times that the texts are resampled.
const RESAMPLES: u64 = 1000;

/// A measure with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// On the texts as they are.
    pub value: f32,
    /// Lower bound.
    pub low: f32,
    /// Upper bound.
    pub high: f32,
}

/// What a bound on the probability of a label would keep.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CutOff {
    /// Least probability.
    pub min_score: f32,
    /// Share of all texts that is kept.
    pub kept: f32,
    /// Share of what is kept that has the label.
    pub precision: f32,
    /// Share of what has the label that is kept.
    pub recall: f32,
}

/// One label against all others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LabelScore {
    /// The label.
    pub label: String,
    /// Texts that have it.
    pub texts: usize,
    /// At a probability of 0.5.
    pub precision: Estimate,
    /// At a probability of 0.5.
    pub recall: Estimate,
    /// Probability that a text with the label scores above one without it; a tie counts half.
    pub auc: Estimate,
    /// Bounds to choose from for a recipe.
    pub cut_offs: Vec<CutOff>,
}

/// A classifier measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Texts.
    pub texts: usize,
    /// Share of texts whose likeliest label is theirs.
    pub accuracy: Estimate,
    /// By label.
    pub labels: Vec<LabelScore>,
}

/// Measures a classifier on `texts`: its `labels`, and the probability of each that it gives to a text.
pub fn evaluate(
    labels: &[&str],
    probabilities: impl Fn(&str) -> Vec<f32> + Sync,
    texts: &[&Labelled],
    seed: u64,
) -> Evaluation {
    let scores: Vec<Vec<f32>> = texts.par_iter().map(|t| probabilities(&t.text)).collect();
    let right: Vec<bool> = scores
        .iter()
        .zip(texts)
        .map(|(scores, text)| {
            let best = scores.iter().zip(labels).reduce(|a, b| if b.0 > a.0 { b } else { a });
            best.is_some_and(|(_, label)| *label == text.label)
        })
        .collect();
    let random = Random::new(seed, &[]).named("resample");
    let accuracy = estimate(texts.len(), &random, |weights| {
        let sum: u32 = right.iter().zip(weights).map(|(r, w)| *r as u32 * w).sum();
        sum as f32 / weights.iter().sum::<u32>() as f32
    });
    let labels = labels
        .iter()
        .enumerate()
        .map(|(n, &label)| {
            let mut scored: Vec<(f32, bool)> =
                scores.iter().zip(texts).map(|(s, t)| (s[n], t.label == label)).collect();
            scored.sort_by(|a, b| a.0.total_cmp(&b.0));
            of_label(label, &scored, &random)
        })
        .collect();
    Evaluation { texts: texts.len(), accuracy, labels }
}

fn of_label(label: &str, scored: &[(f32, bool)], random: &Random) -> LabelScore {
    let at_half = |weights: &[u32]| counts(scored, weights, 0.5);
    let random = random.named(label);
    LabelScore {
        label: label.to_string(),
        texts: scored.iter().filter(|(_, truth)| *truth).count(),
        precision: estimate(scored.len(), &random, |w| {
            let (hits, kept, _) = at_half(w);
            hits / kept
        }),
        recall: estimate(scored.len(), &random, |w| {
            let (hits, _, all) = at_half(w);
            hits / all
        }),
        auc: estimate(scored.len(), &random, |w| area(scored, w)),
        cut_offs: [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]
            .into_iter()
            .map(|min_score| {
                let (hits, kept, all) = counts(scored, &vec![1; scored.len()], min_score);
                CutOff {
                    min_score,
                    kept: kept / scored.len() as f32,
                    precision: hits / kept,
                    recall: hits / all,
                }
            })
            .collect(),
    }
}

/// Hits, all that is kept, and all that has the label.
fn counts(scored: &[(f32, bool)], weights: &[u32], min_score: f32) -> (f32, f32, f32) {
    let (mut hits, mut kept, mut all) = (0, 0, 0);
    for ((score, truth), weight) in scored.iter().zip(weights) {
        let keep = *score >= min_score;
        hits += (keep && *truth) as u32 * weight;
        kept += keep as u32 * weight;
        all += *truth as u32 * weight;
    }
    (hits as f32, kept as f32, all as f32)
}

/// The area under the ROC curve of texts in the order of their scores, each counted `weights` times.
fn area(scored: &[(f32, bool)], weights: &[u32]) -> f32 {
    let (mut below, mut area, mut at) = (0u64, 0.0f64, 0);
    let (mut with, mut without) = (0u64, 0u64);
    while at < scored.len() {
        let end = at + scored[at..].iter().take_while(|s| s.0 == scored[at].0).count();
        let tied = |wanted: bool| -> u64 {
            let tied = scored[at..end].iter().zip(&weights[at..end]);
            tied.filter(|(s, _)| s.1 == wanted).map(|(_, w)| *w as u64).sum()
        };
        let (hits, others) = (tied(true), tied(false));
        area += hits as f64 * (below as f64 + others as f64 / 2.0);
        below += others;
        with += hits;
        without += others;
        at = end;
    }
    (area / (with as f64 * without as f64)) as f32
}

/// A measure and the bounds between which 95% of it lie when the texts are drawn anew with replacement. Samples on
/// which it is not defined (no text of the label) are left out.
fn estimate(texts: usize, random: &Random, measure: impl Fn(&[u32]) -> f32 + Sync) -> Estimate {
    let value = measure(&vec![1; texts]);
    let mut drawn: Vec<f32> = (0..RESAMPLES)
        .into_par_iter()
        .map(|n| {
            let sample = random.stream(n);
            let mut weights = vec![0; texts];
            (0..texts as u64).for_each(|k| weights[sample.pick(k, texts)] += 1);
            measure(&weights)
        })
        .filter(|m| m.is_finite())
        .collect();
    drawn.sort_by(f32::total_cmp);
    let at = |share: f32| {
        drawn.get(((drawn.len() as f32 * share) as usize).min(drawn.len().saturating_sub(1))).copied()
    };
    Estimate { value, low: at(0.025).unwrap_or(f32::NAN), high: at(0.975).unwrap_or(f32::NAN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_that_of_all_pairs_and_ties_count_half() {
        let scored = [(0.1, false), (0.2, true), (0.2, false), (0.3, false), (0.9, true)];
        let mut pairs = 0.0;
        for (a, _) in scored.iter().filter(|s| s.1) {
            for (b, _) in scored.iter().filter(|s| !s.1) {
                pairs += if a > b { 1.0 } else { (a == b) as u8 as f32 / 2.0 };
            }
        }
        assert_eq!(area(&scored, &[1; 5]), pairs / 6.0);
        assert_eq!(area(&scored, &[0, 1, 0, 2, 1]), 0.5);
    }

    #[test]
    fn the_interval_of_a_share_is_that_of_the_binomial() {
        let random = Random::new(1, &[]);
        let estimate = estimate(400, &random, |w| w[..100].iter().sum::<u32>() as f32 / 400.0);
        // 0.25 with a standard error of sqrt(0.25 * 0.75 / 400) = 0.0217.
        assert_eq!(estimate.value, 0.25);
        assert!(
            (estimate.low - 0.2076).abs() < 0.01 && (estimate.high - 0.2924).abs() < 0.01,
            "{estimate:?}"
        );
    }
}

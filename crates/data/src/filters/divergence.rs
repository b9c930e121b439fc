//! Kullback-Leibler divergence of a document's token distribution from the corpus' (SPEC DATA-4): too many outlier
//! tokens, such as keys, dumps and identifiers.

use super::words;
use crate::hash;
use crate::settings::Divergence;
use std::collections::BTreeMap;

/// Buckets that words are hashed into. Few enough that a document of a page fills a fair part of them.
const BUCKETS: usize = 1 << 16;

/// How often each token occurs among the documents of a language.
#[derive(Clone)]
pub struct Distribution {
    counts: Vec<u32>,
    total: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }
}

fn buckets(text: &str) -> impl Iterator<Item = usize> {
    words(text).map(|word| {
        let number = word.bytes().all(|b| b.is_ascii_digit());
        if number { 0 } else { hash::of_word(word) as usize % BUCKETS }
    })
}

impl Distribution {
    /// Counts a document.
    pub fn add(&mut self, text: &str) {
        for bucket in buckets(text) {
            self.counts[bucket] = self.counts[bucket].saturating_add(1);
            self.total += 1;
        }
    }

    /// Adds the counts of another part of the corpus.
    pub fn merge(&mut self, other: &Distribution) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours = ours.saturating_add(*theirs);
        }
        self.total += other.total;
    }

    /// Probability of a bucket in the corpus without the document itself, smoothed by half a count.
    fn probability(&self, bucket: usize, own: u32, own_total: u64) -> f64 {
        let count = self.counts[bucket].saturating_sub(own) as f64 + 0.5;
        count / (self.total.saturating_sub(own_total) as f64 + 0.5 * BUCKETS as f64)
    }
}

/// `D(document || corpus)` in nats, the corpus taken without the document. And the number of its words.
pub fn divergence(text: &str, corpus: &Distribution) -> (f32, usize) {
    let mut own: BTreeMap<usize, u32> = BTreeMap::new();
    for bucket in buckets(text) {
        *own.entry(bucket).or_default() += 1;
    }
    let total: u64 = own.values().map(|c| *c as u64).sum();
    if total == 0 {
        return (0.0, 0);
    }
    let sum: f64 = own
        .iter()
        .map(|(bucket, count)| {
            let p = *count as f64 / total as f64;
            p * (p / corpus.probability(*bucket, *count, total)).ln()
        })
        .sum();
    (sum as f32, total as usize)
}

/// Thresholds by length: short documents diverge more than long ones by chance alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds(Vec<f32>);

/// Lengths are grouped by powers of four.
fn class(words: usize) -> usize {
    (words.max(1).ilog2() / 2) as usize
}

/// Thresholds for a language from the divergences and lengths of all its documents.
pub fn thresholds(documents: &[(f32, usize)], settings: &Divergence) -> Thresholds {
    let bound = |values: &mut Vec<f32>| {
        if values.len() < settings.min_documents.max(1) {
            return None;
        }
        values.sort_by(f32::total_cmp);
        if let Some(quantile) = settings.max_quantile {
            return Some(values[((values.len() - 1) as f32 * quantile) as usize]);
        }
        let (median, upper) = (values[values.len() / 2], values[values.len() * 3 / 4]);
        // Even if all are alike, a tenth above the median is no outlier.
        Some(median + settings.max_spread * (upper - median).max(median / 60.0))
    };
    let all = bound(&mut documents.iter().map(|d| d.0).collect()).unwrap_or(f32::INFINITY);
    let classes = documents.iter().map(|d| class(d.1)).max().unwrap_or(0) + 1;
    let of_class =
        |c| bound(&mut documents.iter().filter(|d| class(d.1) == c).map(|d| d.0).collect()).unwrap_or(all);
    Thresholds((0..classes).map(of_class).collect())
}

impl Thresholds {
    /// The greatest divergence of a document with that many words.
    pub fn of(&self, words: usize) -> f32 {
        self.0.get(class(words)).copied().unwrap_or(f32::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_of_identifiers_is_an_outlier_among_prose() {
        let lines: Vec<&str> = include_str!("../../tests/prose.txt").lines().collect();
        let prose: Vec<String> = (0..60)
            .map(|n| (0..4).map(|k| lines[(n * 3 + k * 5) % lines.len()]).collect::<Vec<_>>().join("\n"))
            .collect();
        let dump: String = (0..300u64).map(|n| format!("q{:x} ", hash::mix(n))).collect();
        let mut corpus = Distribution::default();
        prose.iter().chain([&dump]).for_each(|text| corpus.add(text));
        let all: Vec<_> = prose.iter().chain([&dump]).map(|text| divergence(text, &corpus)).collect();
        let thresholds = thresholds(&all, &Divergence::default());
        let outliers: Vec<usize> = (0..all.len()).filter(|n| all[*n].0 > thresholds.of(all[*n].1)).collect();
        assert_eq!(outliers, [60], "{all:?}");
    }

    #[test]
    fn a_quantile_keeps_its_share() {
        let documents: Vec<(f32, usize)> = (0..=100).map(|n| (n as f32, 100)).collect();
        let settings = Divergence { max_quantile: Some(0.9), ..Divergence::default() };
        let thresholds = thresholds(&documents, &settings);
        assert_eq!(documents.iter().filter(|d| d.0 <= thresholds.of(d.1)).count(), 91);
    }

    #[test]
    fn too_small_a_sample_drops_nothing() {
        let thresholds = thresholds(&[(9.0, 100), (1.0, 100)], &Divergence::default());
        assert_eq!(thresholds.of(100), f32::INFINITY);
    }

    #[test]
    fn the_divergence_from_an_equal_distribution_is_small() {
        let mut corpus = Distribution::default();
        let text = "one two three four five six seven eight ".repeat(50);
        corpus.add(&text);
        corpus.add(&text);
        assert!(
            divergence(&text, &corpus).0.abs() < 5.0,
            "half counts of unseen buckets weigh on a tiny corpus"
        );
        assert!(divergence("other words entirely", &corpus).0 > divergence(&text, &corpus).0);
    }
}

//! Kullback-Leibler divergence of a document's token distribution from the corpus' (SPEC DATA-4): too many outlier
//! tokens, such as keys, dumps and identifiers.

use super::words;
use crate::hash;
use crate::settings::Divergence;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Buckets that words are hashed into. Few enough that a document of a page fills a fair part of them.
const BUCKETS: usize = 1 << 16;

/// How often each token occurs among the documents of a language.
#[derive(Clone)]
pub struct Distribution {
    counts: Vec<u64>,
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
            self.counts[bucket] += 1;
            self.total += 1;
        }
    }

    /// Adds the count of a bucket in another part of the corpus.
    pub fn add_count(&mut self, bucket: u32, count: u64) {
        self.counts[bucket as usize % BUCKETS] += count;
        self.total += count;
    }

    /// Buckets that are not empty, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (u32, u64)> {
        (0..).zip(&self.counts).filter(|(_, count)| **count > 0).map(|(bucket, count)| (bucket, *count))
    }

    /// Probability of a bucket in the corpus without the document itself, smoothed by half a count.
    fn probability(&self, bucket: usize, own: u32, own_total: u64) -> f64 {
        let count = self.counts[bucket].saturating_sub(u64::from(own)) as f64 + 0.5;
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Thresholds(Vec<Option<f32>>);

/// Lengths are grouped by powers of four.
fn class(words: usize) -> u32 {
    words.max(1).ilog2() / 2
}

/// Bits of a divergence that are not told apart: cells are 1/2048 wide or less.
const CELL_BITS: u32 = 12;

/// The divergences of the documents of a language, counted in narrow cells by length.
#[derive(Debug, Clone, Default)]
pub struct Measured(BTreeMap<u32, BTreeMap<u32, u64>>);

impl Measured {
    /// The class of length and the cell of a document.
    pub fn place(divergence: f32, words: usize) -> (u32, u32) {
        (class(words), divergence.max(0.0).to_bits() >> CELL_BITS)
    }

    /// Counts documents of a place.
    pub fn add(&mut self, class: u32, cell: u32, documents: u64) {
        *self.0.entry(class).or_default().entry(cell).or_default() += documents;
    }

    /// What is still allowed. A language or a length with few documents is no sample.
    pub fn thresholds(&self, settings: &Divergence) -> Thresholds {
        let mut whole: BTreeMap<u32, u64> = BTreeMap::new();
        for (cell, documents) in self.0.values().flatten() {
            *whole.entry(*cell).or_default() += documents;
        }
        let all = bound(&whole, settings);
        let classes = self.0.keys().last().map_or(0, |last| last + 1);
        let of_class = |c| self.0.get(&c).and_then(|cells| bound(cells, settings)).or(all);
        Thresholds((0..classes).map(of_class).collect())
    }
}

/// The bound that follows from documents by cell.
fn bound(cells: &BTreeMap<u32, u64>, settings: &Divergence) -> Option<f32> {
    let documents: u64 = cells.values().sum();
    if documents < settings.min_documents.max(1) as u64 {
        return None;
    }
    // The upper end of the cell of a document in the order of all, so that the document itself is within.
    let value = |rank: u64| {
        let mut before = 0;
        let cell = cells.iter().find(|(_, count)| {
            before += **count;
            rank < before
        });
        cell.map_or(f32::MAX, |(cell, _)| f32::from_bits((cell << CELL_BITS) | ((1 << CELL_BITS) - 1)))
    };
    if let Some(quantile) = settings.max_quantile {
        return Some(value(((documents - 1) as f64 * f64::from(quantile)).round() as u64));
    }
    let (median, upper) = (value(documents / 2), value(documents * 3 / 4));
    // Even if all are alike, a tenth above the median is no outlier.
    Some(median + settings.max_spread * (upper - median).max(median / 60.0))
}

impl Thresholds {
    /// The greatest divergence of a document with that many words.
    pub fn of(&self, words: usize) -> f32 {
        self.0.get(class(words) as usize).copied().flatten().unwrap_or(f32::INFINITY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thresholds(documents: &[(f32, usize)], settings: &Divergence) -> Thresholds {
        let mut measured = Measured::default();
        for (divergence, words) in documents {
            let (class, cell) = Measured::place(*divergence, *words);
            measured.add(class, cell, 1);
        }
        measured.thresholds(settings)
    }

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

//! Training: stochastic gradient descent over small batches. All examples of a batch see the same weights and their
//! changes are added in order, so the result has the same bits for any number of threads; fastText's own threads race.

use super::evaluate::{Evaluation, evaluate};
use super::features::{Dictionary, Shape};
use super::{Classifier, Labelled, Loss, dot, softmax};
use crate::error::Error;
use herd_run::random::Random;
use herd_run::{Context, SettingError};
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// Examples that see the same weights.
const BATCH: usize = 16;
/// Parts of the input matrix that are changed at the same time: row `r` lies in part `r % PARTS`.
const PARTS: usize = 16;

/// How a classifier is trained. The defaults suit documents of a crawl.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Settings {
    /// Length of the vectors.
    pub dimension: usize,
    /// Passes over the examples.
    pub epochs: usize,
    /// Learning rate at the start; it falls linearly to 0.
    pub learning_rate: f32,
    /// Longest word n-gram.
    pub word_ngrams: usize,
    /// Shortest subword, characters.
    pub min_subword: usize,
    /// Longest subword, characters; 0 for none.
    pub max_subword: usize,
    /// Rows for n-grams and subwords.
    pub buckets: u32,
    /// Occurrences of a word that has a row of its own.
    pub min_count: i64,
    /// Most words with a row of their own.
    pub max_words: usize,
    /// Share of the examples that is kept back to measure the classifier.
    pub held_out: f64,
    /// Seed of the first weights and of the order.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dimension: 32,
            epochs: 8,
            learning_rate: 0.5,
            word_ngrams: 2,
            min_subword: 0,
            max_subword: 0,
            buckets: 1 << 18,
            min_count: 2,
            max_words: 500_000,
            held_out: 0.1,
            seed: 17,
        }
    }
}

impl Settings {
    fn validate(&self) -> Result<(), SettingError> {
        let positive = [
            ("dimension", self.dimension),
            ("epochs", self.epochs),
            ("word_ngrams", self.word_ngrams),
            ("max_words", self.max_words),
        ];
        if let Some((key, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(SettingError::new(*key, "must be at least 1"));
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(SettingError::new("learning_rate", "must be above 0"));
        }
        if !(0.0..=0.5).contains(&self.held_out) {
            return Err(SettingError::new(
                "held_out",
                format!("{} is no share; choose 0 to 0.5", self.held_out),
            ));
        }
        if self.min_subword > self.max_subword {
            return Err(SettingError::new("min_subword", "is above max_subword"));
        }
        let needs_buckets = self.word_ngrams > 1 || self.max_subword > 0;
        if (needs_buckets && self.buckets == 0) || self.buckets > 1 << 30 {
            return Err(SettingError::new("buckets", "must be 1 to 2^30 for n-grams or subwords"));
        }
        Ok(())
    }
}

/// A classifier and what became of its training.
pub struct Trained {
    /// The classifier.
    pub classifier: Classifier,
    /// Examples by label that it was trained on.
    pub examples: BTreeMap<String, usize>,
    /// Words with a row of their own.
    pub words: usize,
    /// Mean loss of the last epoch, nats.
    pub loss: f32,
    /// What it does on the texts kept back; absent if none were.
    pub evaluation: Option<Evaluation>,
}

/// An example's rows, those of each part together.
struct Example {
    rows: Vec<u32>,
    ends: [u32; PARTS],
    label: usize,
}

impl Example {
    fn new(mut rows: Vec<u32>, label: usize) -> Self {
        rows.sort_by_key(|row| *row as usize % PARTS);
        let mut ends = [0; PARTS];
        for (part, end) in ends.iter_mut().enumerate() {
            *end = rows.partition_point(|row| *row as usize % PARTS <= part) as u32;
        }
        Self { rows, ends, label }
    }

    fn of_part(&self, part: usize) -> &[u32] {
        let start = if part == 0 { 0 } else { self.ends[part - 1] };
        &self.rows[start as usize..self.ends[part] as usize]
    }
}

/// The examples that are kept back, and the others. Which they are depends on their texts and the seed alone.
pub fn keep_back(examples: &[Labelled], share: f64, seed: u64) -> (Vec<&Labelled>, Vec<&Labelled>) {
    let limit = (share * u64::MAX as f64) as u64;
    examples.iter().partition(|e| crate::hash::mix(crate::hash::of_bytes(e.text.as_bytes()) ^ seed) < limit)
}

/// Trains a classifier. Equal texts are kept back together or not at all.
///
/// # Errors
///
/// A setting that cannot work, fewer than two labels, or the user's wish to stop.
pub fn train(examples: &[Labelled], settings: &Settings, ctx: &Context) -> Result<Trained, Error> {
    settings.validate()?;
    let (held_out, kept) = keep_back(examples, settings.held_out, settings.seed);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    kept.iter().for_each(|e| *counts.entry(&e.label).or_default() += 1);
    if counts.len() < 2 {
        let there: Vec<_> = counts.keys().copied().collect();
        let problem = format!(
            "{} examples have {} label(s) ({}); a classifier needs at least two",
            kept.len(),
            counts.len(),
            there.join(", ")
        );
        return Err(SettingError::new("label", problem).into());
    }
    let mut labels: Vec<(String, i64)> = counts.iter().map(|(l, n)| (l.to_string(), *n as i64)).collect();
    labels.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    let number: BTreeMap<&str, usize> = labels.iter().map(|l| l.0.as_str()).zip(0..).collect();

    let shape = Shape {
        buckets: if settings.word_ngrams > 1 || settings.max_subword > 0 { settings.buckets } else { 0 },
        min_subword: settings.min_subword,
        max_subword: settings.max_subword,
        word_ngrams: settings.word_ngrams,
    };
    let texts = kept.iter().map(|e| e.text.as_str());
    let dictionary = Dictionary::count(texts, shape, settings.min_count, settings.max_words);
    let prepared: Vec<Example> = kept
        .par_iter()
        .map(|e| Example::new(dictionary.features(&e.text), number[e.label.as_str()]))
        .collect();
    let examples = counts.iter().map(|(label, n)| (label.to_string(), *n)).collect();

    let mut weights = Weights::new(dictionary.rows(), labels.len(), settings);
    let random = Random::new(settings.seed, &[]).named("order");
    let total = prepared.len() * settings.epochs;
    let progress = ctx.progress.task("train", Some(total as u64), "examples");
    let (mut seen, mut loss) = (0, 0.0);
    for epoch in 0..settings.epochs {
        let order = random.stream(epoch as u64).order(prepared.len());
        loss = 0.0;
        for batch in order.chunks(BATCH) {
            ctx.stop.check()?;
            let batch: Vec<&Example> = batch.iter().map(|n| &prepared[*n]).collect();
            let rate = settings.learning_rate * (1.0 - seen as f32 / total as f32);
            loss += weights.step(&batch, rate);
            seen += batch.len();
            progress.add(batch.len() as u64);
        }
        loss /= prepared.len() as f32;
    }
    let words = dictionary.words.len();
    let (input, output) = weights.flat(dictionary.rows());
    let dimension = settings.dimension;
    let classifier = Classifier { dictionary, labels, dimension, loss: Loss::Softmax, input, output };
    let evaluation = (!held_out.is_empty()).then(|| {
        let labels: Vec<&str> = classifier.labels().collect();
        evaluate(&labels, |text| classifier.probabilities(text), &held_out, settings.seed)
    });
    Ok(Trained { classifier, examples, words, loss, evaluation })
}

struct Weights {
    dimension: usize,
    /// Row `r` of the input matrix is row `r / PARTS` of part `r % PARTS`.
    parts: Vec<Vec<f32>>,
    output: Vec<f32>,
}

/// What an example changes.
struct Change {
    hidden: Vec<f32>,
    /// Per label, truth less probability.
    errors: Vec<f32>,
    /// What is added to each of its rows, for a rate of 1.
    rows: Vec<f32>,
    loss: f32,
}

impl Weights {
    fn new(rows: usize, labels: usize, settings: &Settings) -> Self {
        let dimension = settings.dimension;
        let random = Random::new(settings.seed, &[]).named("input");
        let weight = |row: usize, k: usize| {
            let uniform = random.at((row * dimension + k) as u64) as f64 / u64::MAX as f64;
            ((2.0 * uniform - 1.0) / dimension as f64) as f32
        };
        let part = |part: usize| {
            let rows = (part..rows).step_by(PARTS);
            rows.flat_map(|row| (0..dimension).map(move |k| weight(row, k))).collect()
        };
        Self {
            dimension,
            parts: (0..PARTS).into_par_iter().map(part).collect(),
            output: vec![0.0; labels * dimension],
        }
    }

    fn row(&self, row: u32) -> &[f32] {
        let at = row as usize / PARTS * self.dimension;
        &self.parts[row as usize % PARTS][at..at + self.dimension]
    }

    fn change(&self, example: &Example) -> Change {
        let mut hidden = vec![0.0; self.dimension];
        for row in &example.rows {
            hidden.iter_mut().zip(self.row(*row)).for_each(|(h, w)| *h += w);
        }
        let share = 1.0 / example.rows.len().max(1) as f32;
        hidden.iter_mut().for_each(|h| *h *= share);
        let mut errors: Vec<f32> =
            self.output.chunks_exact(self.dimension).map(|row| dot(row, &hidden)).collect();
        softmax(&mut errors);
        let loss = -errors[example.label].max(1e-30).ln();
        errors.iter_mut().enumerate().for_each(|(n, p)| *p = (n == example.label) as u8 as f32 - *p);
        let mut rows = vec![0.0; self.dimension];
        for (error, out) in errors.iter().zip(self.output.chunks_exact(self.dimension)) {
            rows.iter_mut().zip(out).for_each(|(r, o)| *r += error * o * share);
        }
        Change { hidden, errors, rows, loss }
    }

    /// Learns from a batch; returns the sum of the losses before it.
    fn step(&mut self, batch: &[&Example], rate: f32) -> f32 {
        let changes: Vec<Change> = batch.par_iter().map(|example| self.change(example)).collect();
        let dimension = self.dimension;
        self.parts.par_iter_mut().enumerate().for_each(|(part, weights)| {
            for (example, change) in batch.iter().zip(&changes) {
                for row in example.of_part(part) {
                    let at = *row as usize / PARTS * dimension;
                    let row = &mut weights[at..at + dimension];
                    row.iter_mut().zip(&change.rows).for_each(|(w, c)| *w += rate * c);
                }
            }
        });
        for change in &changes {
            for (error, row) in change.errors.iter().zip(self.output.chunks_exact_mut(dimension)) {
                row.iter_mut().zip(&change.hidden).for_each(|(w, h)| *w += rate * error * h);
            }
        }
        changes.iter().map(|c| c.loss).sum()
    }

    fn flat(self, rows: usize) -> (Vec<f32>, Vec<f32>) {
        let input = (0..rows as u32).flat_map(|row| self.row(row).iter().copied()).collect();
        (input, self.output)
    }
}

//! Linear text classifiers (SPEC DATA-5, DATA-6): the mean of the vectors of a text's words, subwords and word n-grams,
//! one linear layer, softmax: fastText (Joulin et al., arXiv 1607.01759). Models are fastText's `.bin` files in both
//! directions.

mod encoder;
mod evaluate;
mod features;
mod format;
mod labelled;
mod train;

pub use encoder::Encoder;
pub use evaluate::{CutOff, Estimate, Evaluation, LabelScore, evaluate};
pub use format::ModelError;
pub use labelled::{Labelled, read_labelled};
pub use train::{Settings, Trained, keep_back, train};

use features::Dictionary;
use std::path::Path;

/// How outputs become probabilities.
#[derive(Debug, Clone, PartialEq)]
enum Loss {
    Softmax,
    OneVersusAll,
    /// A binary decision at each inner node of a tree over the labels: children of each node, leaves first.
    Hierarchical(Vec<Option<(usize, usize)>>),
}

/// A trained classifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Classifier {
    dictionary: Dictionary,
    /// Labels with their counts in training, most frequent first.
    labels: Vec<(String, i64)>,
    dimension: usize,
    loss: Loss,
    /// A vector for each feature, `[rows, dimension]`.
    input: Vec<f32>,
    /// A vector for each label, `[labels, dimension]`.
    output: Vec<f32>,
}

/// A model of either kind.
pub enum Model {
    /// fastText's.
    Linear(Classifier),
    /// A Transformer.
    Encoder(Box<Encoder>),
}

impl Model {
    /// Reads fastText's `.bin` file, or the folder of a Transformer.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        match path.is_dir() {
            true => Ok(Self::Encoder(Box::new(Encoder::load(path)?))),
            false => Ok(Self::Linear(Classifier::load(path)?)),
        }
    }

    /// The names of the labels, in the order of [`Self::probabilities`].
    pub fn labels(&self) -> Vec<&str> {
        match self {
            Self::Linear(model) => model.labels().collect(),
            Self::Encoder(model) => model.labels().collect(),
        }
    }

    /// The probability of each label.
    pub fn probabilities(&self, text: &str) -> Vec<f32> {
        match self {
            Self::Linear(model) => model.probabilities(text),
            Self::Encoder(model) => model.probabilities(text),
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - most).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
}

impl Classifier {
    /// Reads fastText's `.bin` file.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        format::load(path)
    }

    /// Writes fastText's `.bin` file, complete or not at all.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        Ok(format::save(self, path)?)
    }

    /// The names of the labels, in the order of [`Self::probabilities`].
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().map(|(name, _)| name.as_str())
    }

    /// The probability of each label.
    pub fn probabilities(&self, text: &str) -> Vec<f32> {
        let rows = self.dictionary.features(text);
        let mut hidden = vec![0.0; self.dimension];
        for row in &rows {
            let vector = &self.input[*row as usize * self.dimension..][..self.dimension];
            hidden.iter_mut().zip(vector).for_each(|(h, v)| *h += v);
        }
        let count = rows.len().max(1) as f32;
        hidden.iter_mut().for_each(|h| *h /= count);
        let mut scores: Vec<f32> =
            self.output.chunks_exact(self.dimension.max(1)).map(|row| dot(row, &hidden)).collect();
        match &self.loss {
            Loss::Softmax => softmax(&mut scores),
            Loss::OneVersusAll => scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
            Loss::Hierarchical(children) => return descend(children, &scores),
        }
        scores
    }
}

/// Products of the decisions on the way to each leaf.
fn descend(children: &[Option<(usize, usize)>], scores: &[f32]) -> Vec<f32> {
    let leaves = scores.len();
    let mut out = vec![0.0; leaves];
    let mut open = vec![(children.len() - 1, 1.0f32)];
    while let Some((node, probability)) = open.pop() {
        match children[node] {
            None => out[node] = probability,
            Some((left, right)) => {
                let to_right = 1.0 / (1.0 + (-scores[node - leaves]).exp());
                open.push((left, probability * (1.0 - to_right)));
                open.push((right, probability * to_right));
            }
        }
    }
    out
}

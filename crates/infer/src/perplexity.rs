//! How well a model predicts a text.

use crate::{Error, Generator};
use herd_run::{Context, SettingError};
use serde::Serialize;

/// What [`perplexity`] found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// Exponential of the mean negative log-probability of the scored tokens: those of the second half of each chunk,
    /// which have at least half a chunk before them. This is llama.cpp's measure.
    pub perplexity: f64,
    /// One standard error of it.
    pub standard_error: f64,
    /// The same over all tokens but the first of each chunk.
    pub perplexity_all: f64,
    /// Mean negative log-probability of the scored tokens, nats.
    pub nll: f64,
    /// Tokens that were scored for `perplexity`.
    pub scored: usize,
    /// Chunks, each computed on its own.
    pub chunks: usize,
    /// Tokens of a chunk.
    pub chunk: usize,
    /// Tokens of the text; those after the last whole chunk are not used.
    pub tokens: usize,
}

/// The perplexity of a text of `tokens`, in chunks of `chunk` tokens; the first token of each is taken for the
/// tokenizer's begin token if it puts one before texts, as llama.cpp's `llama-perplexity` does.
///
/// # Errors
/// A chunk longer than the model's context, or a text of less than two chunks.
pub fn perplexity(
    generator: &Generator,
    tokens: &[u32],
    chunk: usize,
    ctx: &Context,
) -> Result<Perplexity, Error> {
    if chunk > generator.context() {
        let problem = format!("{chunk} tokens are more than the model can see, {}", generator.context());
        return Err(SettingError::new("context", problem).into());
    }
    if chunk < 4 {
        return Err(SettingError::new("context", format!("{chunk} tokens are too few; at least 4")).into());
    }
    if tokens.len() < 2 * chunk {
        return Err(Error::ShortText { tokens: tokens.len(), needed: 2 * chunk });
    }
    let chunks = tokens.len() / chunk;
    let (mut half, mut all) = (Sums::default(), Sums::default());
    for (number, piece) in tokens.chunks_exact(chunk).enumerate() {
        ctx.stop.check()?;
        let mut piece = piece.to_vec();
        if let Some(begin) = generator.tokenizer().begin() {
            piece[0] = begin;
        }
        let scores = generator.score(&piece)?;
        scores.iter().for_each(|&score| all.add(score));
        // Score i is that of token i + 1: the first one scored is that after the first token of the second half.
        scores[chunk / 2..].iter().for_each(|&score| half.add(score));
        ctx.progress.line(format!("{}/{chunks}: perplexity {:.4}", number + 1, half.mean().exp()));
    }
    Ok(Perplexity {
        perplexity: half.mean().exp(),
        standard_error: half.error() * half.mean().exp(),
        perplexity_all: all.mean().exp(),
        nll: half.mean(),
        scored: half.count,
        chunks,
        chunk,
        tokens: tokens.len(),
    })
}

/// Of negative log-probabilities.
#[derive(Default)]
struct Sums {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Sums {
    fn add(&mut self, score: f32) {
        let nll = -f64::from(score);
        self.sum += nll;
        self.squares += nll * nll;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    /// Standard error of the mean.
    fn error(&self) -> f64 {
        let variance = self.squares / self.count as f64 - self.mean() * self.mean();
        (variance.max(0.0) / (self.count as f64 - 1.0).max(1.0)).sqrt()
    }
}

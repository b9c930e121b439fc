//! A text as one vector, from the hidden states after the final norm.

use crate::cache::{PAGE, PageTable};
use crate::forward::{Input, Span};
use crate::team::Team;
use crate::{Error, Generator};

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// The last one, which alone has seen the whole text.
    Last,
}

impl Generator {
    /// Length of the vectors that [`Generator::embed`] gives.
    pub fn embedding_size(&self) -> usize {
        self.model.sizes().hidden
    }

    /// The vector of a text, of Euclidean length 1. It depends on the tokens alone.
    ///
    /// # Errors
    /// No tokens, more than the context, or unknown ones.
    pub fn embed(&self, tokens: &[u32], pooling: Pooling) -> Result<Vec<f32>, Error> {
        let sizes = self.model.sizes();
        if tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if tokens.len() > sizes.context {
            return Err(Error::ContextOverflow { prompt: tokens.len(), context: sizes.context });
        }
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= sizes.vocab) {
            return Err(Error::UnknownToken { token, vocab: sizes.vocab });
        }
        let pages = tokens.len().div_ceil(PAGE);
        let team = Team::of_pool();
        let (mut cache, mut table) = (self.model.cache(pages), PageTable::default());
        let mut sum = vec![0f64; sizes.hidden];
        for chunk in tokens.chunks(self.settings.batch_tokens) {
            let start = table.length;
            if !cache.grow(&mut table, start + chunk.len()) {
                return Err(Error::DoesNotFit { needed: tokens.len(), cache: pages * PAGE });
            }
            let spans = [Span { rows: 0..chunk.len(), start, pages: &table.pages }];
            let end = start + chunk.len() == tokens.len();
            let wanted: Vec<usize> = match pooling {
                Pooling::Mean => (0..chunk.len()).collect(),
                Pooling::Last => end.then(|| chunk.len() - 1).into_iter().collect(),
            };
            let states = self.model.hidden(
                &team,
                &mut cache,
                Input { tokens: chunk, spans: &spans, wanted: &wanted },
            )?;
            for row in states.chunks_exact(sizes.hidden) {
                sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
            }
            cache.advance(&mut table, &tokens[..start + chunk.len()]);
        }
        Ok(normalised(&sum))
    }
}

/// `vector` with Euclidean length 1, or zeros if it has none.
fn normalised(vector: &[f64]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|x| (x * scale) as f32).collect()
}

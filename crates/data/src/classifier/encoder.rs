//! A Transformer that scores documents (SPEC DATA-5): a Llama with a head of one output
//! (`LlamaForSequenceClassification`), read at the text's last token. `herd data train-classifier --base` makes it.

use super::ModelError;
use herd_model::{Batch, Head, Llama, weights};
use herd_run::atomic;
use herd_tensor::{Params, Tape};
use herd_tokenizer::Tokenizer;
use serde::Deserialize;
use std::path::Path;

/// A trained model of two labels.
pub struct Encoder {
    llama: Llama,
    params: Params,
    tokenizer: Tokenizer,
    about: About,
}

/// `classifier.json`.
#[derive(Deserialize)]
struct About {
    /// The label that a score above 0 means, and the other.
    labels: [String; 2],
    /// Tokens of a text that are read.
    max_tokens: usize,
}

impl Encoder {
    /// Reads a model folder.
    ///
    /// # Errors
    ///
    /// A folder without `classifier.json`, weights with this head, or tokenizer.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let content = |problem: String| ModelError::Content { path: folder.to_path_buf(), problem };
        let about: About = atomic::read_json(&folder.join("classifier.json"))?;
        let (llama, params) = weights::load(folder).map_err(|e| content(e.to_string()))?;
        if llama.head_kind != Head::Reward {
            return Err(content("is a language model without `score.weight`".into()));
        }
        let tokenizer = Tokenizer::load(folder).map_err(|e| content(e.to_string()))?;
        if about.max_tokens == 0 || about.max_tokens > llama.config.max_position_embeddings {
            return Err(content(format!("reads {} tokens, beyond its context", about.max_tokens)));
        }
        Ok(Self { llama, params, tokenizer, about })
    }

    /// The names of the labels, in the order of [`Self::probabilities`].
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.about.labels.iter().map(String::as_str)
    }

    /// The probability of each label.
    pub fn probabilities(&self, text: &str) -> Vec<f32> {
        let mut tokens = vec![self.tokenizer.specials().bos];
        self.tokenizer.encode_into(text, &mut tokens);
        tokens.truncate(self.about.max_tokens);
        let last = tokens.len() - 1;
        let mut tape = Tape::no_grad(&self.params);
        let hidden = self.llama.hidden(&mut tape, &Batch::sequence(tokens));
        let last = tape.select_rows(&hidden, &[last]);
        let score = tape.linear(&last, self.llama.head()).value().as_slice()[0];
        let probability = 1.0 / (1.0 + (-score).exp());
        vec![probability, 1.0 - probability]
    }
}

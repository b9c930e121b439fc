//! The `[model]` table of a recipe, in the paper's terms.

use crate::config::{LlamaConfig, RopeScaling, TorchDtype};
use herd_run::SettingError;
use serde::{Deserialize, Serialize};

/// Shape of the model (SPEC MODEL-1). The vocabulary comes from the tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub model_dimension: usize,
    /// Width of the feed-forward network's hidden layer (each of gate and up).
    pub ffn_dimension: usize,
    /// Query heads.
    pub attention_heads: usize,
    /// Key/value heads; each serves `attention_heads / key_value_heads` query heads.
    pub key_value_heads: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequency scaling of Llama 3.1, for contexts longer than trained; absent while training from scratch.
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square before the root in RMSNorm.
    pub norm_eps: f64,
    /// Whether the output matrix is the embedding matrix (1B and 3B of Llama 3.2).
    pub tie_embeddings: bool,
    /// Longest context the model will be used with, tokens.
    pub max_context: usize,
    /// Standard deviation of the initial weights.
    pub init_std: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            layers: 4,
            model_dimension: 256,
            ffn_dimension: 768,
            attention_heads: 8,
            key_value_heads: 2,
            rope_theta: 500_000.0,
            rope_scaling: None,
            norm_eps: 1e-5,
            tie_embeddings: false,
            max_context: 8192,
            init_std: 0.02,
        }
    }
}

impl Settings {
    /// Refuses shapes that cannot work, naming the key and what would work.
    pub fn validate(&self) -> Result<(), SettingError> {
        let positive = [
            ("layers", self.layers),
            ("model_dimension", self.model_dimension),
            ("ffn_dimension", self.ffn_dimension),
            ("attention_heads", self.attention_heads),
            ("key_value_heads", self.key_value_heads),
            ("max_context", self.max_context),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(SettingError::new(key, "must be at least 1"));
            }
        }
        if !self.model_dimension.is_multiple_of(self.attention_heads) {
            return Err(SettingError::new(
                "attention_heads",
                format!(
                    "{} heads do not divide model_dimension {}; choose one of {}",
                    self.attention_heads,
                    self.model_dimension,
                    divisors(self.model_dimension, |heads| (self.model_dimension / heads).is_multiple_of(2)),
                ),
            ));
        }
        if !(self.model_dimension / self.attention_heads).is_multiple_of(2) {
            return Err(SettingError::new(
                "attention_heads",
                format!(
                    "heads of {} numbers cannot be rotated in pairs; choose one of {}",
                    self.model_dimension / self.attention_heads,
                    divisors(self.model_dimension, |heads| (self.model_dimension / heads).is_multiple_of(2)),
                ),
            ));
        }
        if !self.attention_heads.is_multiple_of(self.key_value_heads) {
            return Err(SettingError::new(
                "key_value_heads",
                format!(
                    "{} do not divide attention_heads {}; choose one of {}",
                    self.key_value_heads,
                    self.attention_heads,
                    divisors(self.attention_heads, |_| true),
                ),
            ));
        }
        for (key, value) in
            [("rope_theta", self.rope_theta), ("norm_eps", self.norm_eps), ("init_std", self.init_std as f64)]
        {
            if !(value > 0.0 && value.is_finite()) {
                return Err(SettingError::new(key, format!("{value} must be a positive number")));
            }
        }
        Ok(())
    }

    /// The configuration of a model of this shape over `vocab_size` tokens that begins texts with token `bos` and
    /// may end them with any of `eos`.
    pub fn config(&self, vocab_size: usize, bos: u32, eos: Vec<u32>) -> LlamaConfig {
        LlamaConfig {
            vocab_size,
            hidden_size: self.model_dimension,
            intermediate_size: self.ffn_dimension,
            num_hidden_layers: self.layers,
            num_attention_heads: self.attention_heads,
            num_key_value_heads: self.key_value_heads,
            head_dim: self.model_dimension / self.attention_heads,
            rms_norm_eps: self.norm_eps,
            rope_theta: self.rope_theta,
            rope_scaling: self.rope_scaling,
            attention_bias: false,
            tie_word_embeddings: self.tie_embeddings,
            max_position_embeddings: self.max_context,
            initializer_range: self.init_std,
            bos_token_id: bos,
            eos_token_ids: eos,
            torch_dtype: TorchDtype::Float32,
        }
    }
}

fn divisors(n: usize, fits: impl Fn(usize) -> bool) -> String {
    let all: Vec<String> =
        (1..=n).filter(|d| n.is_multiple_of(*d) && fits(*d)).map(|d| d.to_string()).collect();
    all.join(", ")
}

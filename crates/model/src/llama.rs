//! The Llama 3 Transformer (SPEC MODEL-1): pre-norm with RMSNorm, grouped-query attention with rotary positions,
//! SwiGLU, no biases. Shapes: `n` rows (the tokens of all packed sequences), `d` model dimension, `h` heads and `k`
//! key/value heads of `c` numbers, `f` feed-forward dimension, `v` vocabulary.

use crate::config::LlamaConfig;
use herd_tensor::{
    Attention, AttentionShape, Init, Llama3Scaling, ParamId, ParamSpec, Params, RopeTable, Segments, Tape,
    Var,
};
use std::sync::Arc;

/// One layer's parameters. Query, key and value are one matrix, and so are gate and up: one product each.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// Scale of the norm before attention, `[d]`.
    pub attn_norm: ParamId,
    /// Query, key and value projections, stacked: `[(h + 2k) c, d]`.
    pub wqkv: ParamId,
    /// Output projection of attention, `[d, h c]`.
    pub wo: ParamId,
    /// Scale of the norm before the feed-forward network, `[d]`.
    pub ffn_norm: ParamId,
    /// Gate and up projections, stacked: `[2f, d]`.
    pub w_gate_up: ParamId,
    /// Down projection, `[d, f]`.
    pub w_down: ParamId,
}

/// What stands on top of the last norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Scores for the next token: `[v, d]`; the embedding matrix itself if tied.
    Language,
    /// One scalar for a response: `[1, d]` (SPEC POST-3).
    Reward,
}

/// Tokens to run through the model: rows of one or many sequences, told apart by `segments`.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Token of each row, `[n]`.
    pub tokens: Vec<u32>,
    /// Position of each row in its own document, `[n]`.
    pub positions: Vec<u32>,
    /// Which rows see which (SPEC MODEL-2).
    pub segments: Arc<Segments>,
}

impl Batch {
    /// A single sequence that begins at position 0.
    pub fn sequence(tokens: Vec<u32>) -> Self {
        let n = tokens.len();
        Self { tokens, positions: (0..n as u32).collect(), segments: Arc::new(Segments::causal(n)) }
    }
}

/// The model: which parameters there are and how they are applied. The numbers themselves are in a [`Params`].
#[derive(Debug, Clone)]
pub struct Llama {
    /// Its configuration.
    pub config: LlamaConfig,
    /// Token embeddings, `[v, d]`.
    pub embed: ParamId,
    /// The layers, first to last.
    pub layers: Vec<Layer>,
    /// Scale of the final norm, `[d]`.
    pub norm: ParamId,
    /// Kind of the head.
    pub head_kind: Head,
    /// Rotary angles for every position up to the longest context.
    pub rope: RopeTable,
    head: ParamId,
    specs: Vec<ParamSpec>,
}

impl Llama {
    /// A language model.
    pub fn new(config: LlamaConfig) -> Self {
        Self::with_head(config, Head::Language)
    }

    /// A model with the given head.
    pub fn with_head(config: LlamaConfig, head_kind: Head) -> Self {
        let (d, f, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let attention = config.num_attention_heads * config.head_dim;
        let std = config.initializer_range;
        // Each of the 2L additions to the residual stream starts smaller, so that its variance does not grow with depth.
        let residual_std = std / (2.0 * config.num_hidden_layers as f32).sqrt();
        let mut specs = Vec::new();
        let mut add = |name: String, shape: &[usize], init: Init| {
            let decay = shape.len() > 1;
            specs.push(ParamSpec { name, shape: shape.to_vec(), init, decay });
            ParamId::new(specs.len() - 1)
        };
        let embed = add("embed".into(), &[v, d], Init::Normal { std });
        let layers = (0..config.num_hidden_layers)
            .map(|i| Layer {
                attn_norm: add(format!("layers.{i}.attn_norm"), &[d], Init::Ones),
                wqkv: add(format!("layers.{i}.wqkv"), &[config.qkv_width(), d], Init::Normal { std }),
                wo: add(format!("layers.{i}.wo"), &[d, attention], Init::Normal { std: residual_std }),
                ffn_norm: add(format!("layers.{i}.ffn_norm"), &[d], Init::Ones),
                w_gate_up: add(format!("layers.{i}.w_gate_up"), &[2 * f, d], Init::Normal { std }),
                w_down: add(format!("layers.{i}.w_down"), &[d, f], Init::Normal { std: residual_std }),
            })
            .collect();
        let norm = add("norm".into(), &[d], Init::Ones);
        let head = match head_kind {
            Head::Language if config.tie_word_embeddings => embed,
            Head::Language => add("head".into(), &[v, d], Init::Normal { std }),
            Head::Reward => add("score".into(), &[1, d], Init::Zeros),
        };
        let rope = Self::rope_of(&config);
        Self { config, embed, layers, norm, head_kind, rope, head, specs }
    }

    /// The rotary angles of every position of a model's context.
    pub fn rope_of(config: &LlamaConfig) -> RopeTable {
        let scaling = config.rope_scaling.map(|s| Llama3Scaling {
            factor: s.factor,
            low_freq_factor: s.low_freq_factor,
            high_freq_factor: s.high_freq_factor,
            original_context: s.original_max_position_embeddings,
        });
        RopeTable::new(config.head_dim, config.rope_theta, scaling, config.max_position_embeddings)
    }

    /// Zeroed parameters for this model; [`Params::initialize`] or [`crate::weights::load`] fills them.
    pub fn params(&self) -> Params {
        Params::new(self.specs.clone())
    }

    /// The matrix on top: `[v, d]` for language, `[1, d]` for reward.
    pub fn head(&self) -> ParamId {
        self.head
    }

    /// Hidden states after the final norm, `[n, d]`. The head is left to the caller, since losses fuse it.
    pub fn hidden(&self, tape: &mut Tape, batch: &Batch) -> Var {
        let attention = self.attention(batch);
        let mut x = tape.embedding(self.embed, &batch.tokens);
        for layer in &self.layers {
            x = self.block(tape, layer, &x, &attention);
        }
        tape.rms_norm(&x, self.norm, self.config.rms_norm_eps as f32)
    }

    /// The same, with the insides of every layer forgotten and computed again in the backward pass: memory for one
    /// layer's activations instead of all, for a third more work.
    pub fn hidden_recomputed<'p>(self: &Arc<Self>, tape: &mut Tape<'p>, batch: &Batch) -> Var {
        let attention = self.attention(batch);
        let mut x = tape.embedding(self.embed, &batch.tokens);
        for i in 0..self.layers.len() {
            let (llama, attention) = (self.clone(), attention.clone());
            x = tape.segment(&[&x], move |tape, inputs| {
                llama.block(tape, &llama.layers[i], &inputs[0], &attention)
            });
        }
        tape.rms_norm(&x, self.norm, self.config.rms_norm_eps as f32)
    }

    /// What attention is about in every layer: heads, who sees whom, and the rotation of each row.
    fn attention(&self, batch: &Batch) -> Attention {
        Attention {
            shape: AttentionShape {
                heads: self.config.num_attention_heads,
                kv_heads: self.config.num_key_value_heads,
                head_dim: self.config.head_dim,
            },
            segments: batch.segments.clone(),
            rope: Some(self.rope.at(&batch.positions)),
        }
    }

    /// One layer: `x + attention(norm(x))`, then `x + ffn(norm(x))`. Values are given away with their last use, so that what
    /// comes next can have their place.
    fn block(&self, tape: &mut Tape, layer: &Layer, x: &Var, attention: &Attention) -> Var {
        let eps = self.config.rms_norm_eps as f32;
        let normed = tape.rms_norm(x, layer.attn_norm, eps);
        let qkv = tape.linear(normed, layer.wqkv);
        let mixed = tape.attention(qkv, attention);
        let x = tape.linear_add(mixed, layer.wo, x);
        let normed = tape.rms_norm(&x, layer.ffn_norm, eps);
        let gate_up = tape.linear(normed, layer.w_gate_up);
        let active = tape.swiglu(gate_up);
        tape.linear_add_last(active, layer.w_down, &x)
    }
}

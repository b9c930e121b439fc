//! Random models of chosen shapes, as folders.

use crate::tiny;
use herd_infer::{Generator, Settings};
use herd_model::{Llama, LlamaConfig, RopeScaling, TorchDtype, weights};
use herd_tensor::Params;
use herd_tensor::cuda::Card;

/// A Llama.
#[derive(Default)]
pub struct Shape {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub tied: bool,
    /// Llama 3.1's change of the RoPE frequencies.
    pub scaling: bool,
    /// Weights in f32, not bf16.
    pub float: bool,
    /// Tokens of the model; those of the tokenizer if 0.
    pub vocab: usize,
    /// Blocks; two if 0.
    pub layers: usize,
}

/// A random model of this shape as a folder.
pub fn folder(shape: &Shape) -> tempfile::TempDir {
    changed_folder(shape, |_, _| {})
}

/// The same with weights that are changed before they are written.
pub fn changed_folder(shape: &Shape, change: impl FnOnce(&Llama, &mut Params)) -> tempfile::TempDir {
    let tokenizer = tiny::tokenizer();
    let scaling = RopeScaling {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 64,
    };
    let llama = Llama::new(LlamaConfig {
        vocab_size: tokenizer.vocab_size().max(shape.vocab),
        hidden_size: 96,
        intermediate_size: 144,
        num_hidden_layers: if shape.layers == 0 { 2 } else { shape.layers },
        num_attention_heads: shape.heads,
        num_key_value_heads: shape.kv_heads,
        head_dim: shape.head_dim,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: shape.scaling.then_some(scaling),
        attention_bias: false,
        tie_word_embeddings: shape.tied,
        max_position_embeddings: tiny::CONTEXT,
        // Wide, so that the distributions are far from even.
        initializer_range: 0.2,
        bos_token_id: tokenizer.specials().bos,
        eos_token_ids: vec![tokenizer.specials().eot],
        torch_dtype: if shape.float { TorchDtype::Float32 } else { TorchDtype::Bfloat16 },
    });
    let mut params = llama.params();
    params.initialize(11);
    change(&llama, &mut params);
    let folder = tempfile::tempdir().unwrap();
    weights::save(folder.path(), &llama, &params).unwrap();
    tokenizer.save(folder.path()).unwrap();
    folder
}

/// The same folder opened on the processor and on a card.
pub fn open_both(card: &Card, shape: &Shape, settings: &Settings) -> [Generator; 2] {
    let folder = folder(shape);
    [
        Generator::open(folder.path(), settings.clone()).unwrap(),
        Generator::open_on_card(card, folder.path(), settings.clone()).unwrap(),
    ]
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // A NaN is as far off as can be.
    let difference = |(a, b): (&f32, &f32)| (a - b).abs();
    a.iter().zip(b).map(difference).fold(0.0, |m, d| if d <= m { m } else { d })
}

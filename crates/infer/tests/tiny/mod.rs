//! A random model that is small enough for tests.
#![allow(dead_code, reason = "every test file uses a part")]

use herd_infer::{Generator, Settings};
use herd_model::{Llama, LlamaConfig, TorchDtype};
use herd_tensor::Params;
use herd_tokenizer::Tokenizer;

pub const CONTEXT: usize = 256;

pub fn tokenizer() -> Tokenizer {
    let texts = ["the cat sat on the mat and the dog sat on the log"; 4];
    let settings = herd_tokenizer::train::Settings { vocab_size: 530, ..Default::default() };
    herd_tokenizer::train::train(&texts, &settings).unwrap()
}

pub fn model(tokenizer: &Tokenizer) -> (Llama, Params) {
    model_of_context(tokenizer, CONTEXT)
}

pub fn model_of_context(tokenizer: &Tokenizer, context: usize) -> (Llama, Params) {
    let llama = Llama::new(LlamaConfig {
        vocab_size: tokenizer.vocab_size(),
        hidden_size: 48,
        intermediate_size: 80,
        num_hidden_layers: 2,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 8,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        attention_bias: false,
        tie_word_embeddings: false,
        max_position_embeddings: context,
        // Wide, so that the distributions are far from even.
        initializer_range: 0.3,
        bos_token_id: tokenizer.specials().bos,
        eos_token_ids: vec![tokenizer.specials().eot],
        torch_dtype: TorchDtype::Float32,
    });
    let mut params = llama.params();
    params.initialize(11);
    (llama, params)
}

pub fn generator(settings: Settings) -> Generator {
    let tokenizer = tokenizer();
    let (llama, params) = model(&tokenizer);
    Generator::new(llama, params, tokenizer, settings).unwrap()
}

/// Reproducible tokens without special ones.
pub fn prompt(length: usize, seed: u32) -> Vec<u32> {
    (0..length as u32).map(|i| (i * 37 + seed * 101 + i * i) % 270).collect()
}

//! Speed of prompts and answers on random weights: `speed [HIDDEN LAYERS VOCAB THREADS]`.
//!
//! Prints tokens per second of a 512-token prompt, and of answers alone and in batches.

use herd_infer::{Generator, Sampling, Settings};
use herd_model::{Llama, LlamaConfig, TorchDtype};
use std::time::Instant;

#[path = "../tests/tiny/mod.rs"]
mod tiny;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let [hidden, layers, vocab, threads] = numbers.try_into().unwrap_or([256, 8, 8192, 2]);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let tokenizer = tiny::tokenizer();
    let (tiny, _) = tiny::model(&tokenizer);
    let llama = Llama::new(LlamaConfig {
        vocab_size: vocab,
        hidden_size: hidden,
        intermediate_size: hidden * 8 / 3 / 32 * 32,
        num_hidden_layers: layers,
        num_attention_heads: hidden / 64,
        num_key_value_heads: (hidden / 64 / 3).max(1),
        head_dim: 64,
        max_position_embeddings: 2048,
        torch_dtype: TorchDtype::Float32,
        ..tiny.config
    });
    let mut params = llama.params();
    params.initialize(1);
    println!("{:.1} million parameters, {threads} threads", params.count() as f64 / 1e6);
    let generator = Generator::new(llama, params, tokenizer, Settings::default())?;
    let prompt = |length: usize, seed: u32| tiny::prompt(length, seed);
    let answers = |new: usize| Sampling { ignore_end: true, ..Sampling::greedy(new) };
    for round in 0..3 {
        let start = Instant::now();
        generator.generate(&[prompt(512, round)], 1, &answers(1))?;
        let prefill = 512.0 / start.elapsed().as_secs_f64();
        print!("prompt {prefill:.0} tokens/s; answers");
        for batch in [1, 4, 16, 64] {
            let prompts: Vec<_> = (0..batch).map(|i| prompt(16, i)).collect();
            let start = Instant::now();
            generator.generate(&prompts, 1, &answers(64))?;
            let rate = 64.0 * f64::from(batch) / start.elapsed().as_secs_f64();
            print!(" {rate:.0} ({batch})");
        }
        println!(" tokens/s");
    }
    Ok(())
}

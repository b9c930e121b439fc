//! Models that are quantised or in bf16 answer with the same bits alone and in a batch of any size, with the prompt in the cache and
//! without, however it is cut into chunks, for every type of cache.

#[path = "../../infer/tests/tiny/mod.rs"]
mod tiny;

use herd_convert::{Checkpoint, Format, Target, convert};
use herd_infer::gguf::BlockType;
use herd_infer::{Batcher, CacheType, Event, Generator, Request, Sampling, Settings, TokenLogprob};
use herd_model::{Llama, LlamaConfig, weights};
use herd_run::Context;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

/// More than one stretch of attention (256) and many pages.
const PROMPT: usize = 290;

/// A random model whose rows are whole blocks of 256, so that every format is what it is asked for.
fn float_model(folder: &Path) -> PathBuf {
    let tokenizer = tiny::tokenizer();
    let config = LlamaConfig {
        hidden_size: 256,
        intermediate_size: 512,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 64,
        initializer_range: 0.15,
        ..tiny::model_of_context(&tokenizer, 512).0.config
    };
    let llama = Llama::new(config);
    let mut params = llama.params();
    params.initialize(5);
    let path = folder.join("float");
    weights::save(&path, &llama, &params).unwrap();
    tokenizer.save(&path).unwrap();
    path
}

fn quantised(source: &Path, kind: BlockType) -> PathBuf {
    let path = source.with_file_name(format!("{}.gguf", kind.name()));
    let target = Target { format: Format::Gguf, kind: Some(kind), shard_bytes: Target::SHARD_BYTES };
    convert(&Checkpoint::open(source).unwrap(), &path, target, &Context::quiet()).unwrap();
    path
}

/// Tokens, their log-probabilities and those of the likeliest others; and how much of the prompt was cached.
fn collect(events: &Receiver<Event>) -> (Vec<(u32, TokenLogprob)>, usize) {
    let (mut answer, mut cached) = (Vec::new(), 0);
    for event in events {
        match event {
            Event::Started { cached_tokens } => cached = cached_tokens,
            Event::Token { token, logprob, .. } => answer.push((token, logprob.unwrap())),
            Event::Finished { .. } => return (answer, cached),
        }
    }
    panic!("the answer broke off");
}

fn request(length: usize, seed: u32, temperature: f32) -> Request {
    let sampling = Sampling {
        temperature,
        max_tokens: 12,
        seed: 9,
        logprobs: Some(3),
        ignore_end: true,
        ..Sampling::default()
    };
    Request { prompt: tiny::prompt(length, seed), samples: 1, sampling }
}

#[test]
fn answers_have_the_same_bits_in_a_batch_of_1_to_16_with_and_without_prefix_hits() {
    let folder = tempfile::tempdir().unwrap();
    let source = float_model(folder.path());
    for kind in [BlockType::Bf16, BlockType::Q8_0, BlockType::Q4_0, BlockType::Q4_1, BlockType::Q4K] {
        let path = quantised(&source, kind);
        let stored = Checkpoint::open(&path).unwrap();
        assert!(stored.tensors().iter().any(|tensor| tensor.kind.name() == kind.name()), "{}", kind.name());
        for cache_type in [CacheType::F32, CacheType::F16, CacheType::Q8] {
            let open = |batch_tokens: usize| {
                let settings = Settings { cache_type, batch_tokens, ..Settings::default() };
                Generator::open(&path, settings).unwrap()
            };
            let (whole, chunked) = (open(512), open(56));
            for temperature in [0.0, 0.9] {
                let mine = || request(PROMPT, 1, temperature);
                let alone = {
                    let batcher = Batcher::new(&whole).unwrap();
                    let (_job, events) = batcher.submit(mine()).unwrap();
                    collect(&events).0
                };
                assert_eq!(alone.len(), 12);
                let batcher = Batcher::new(&chunked).unwrap();
                let (mut hits, mut misses) = (0, 0);
                for size in 1..=16 {
                    let place = size * 5 % 7 % size;
                    let other = |i: u32| request(3 + (7 * i as usize) % 40, 100 + size + i, temperature);
                    let jobs: Vec<_> = (0..size)
                        .map(|i| batcher.submit(if i == place { mine() } else { other(i) }).unwrap())
                        .collect();
                    let (answer, cached) = collect(&jobs[place as usize].1);
                    *(if cached > 0 { &mut hits } else { &mut misses }) += 1;
                    let what = format!("{} {cache_type:?} batch of {size}, {cached} cached", kind.name());
                    assert!(answer == alone, "{what}: {answer:?}, alone {alone:?}");
                    jobs.iter().enumerate().filter(|(i, _)| *i != place as usize).for_each(
                        |(_, (_, events))| {
                            collect(events);
                        },
                    );
                }
                assert!(hits > 0 && misses > 0, "with hits ({hits}) and without ({misses})");
            }
        }
    }
}

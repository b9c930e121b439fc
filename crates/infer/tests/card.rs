//! Generation on a card, with the card made of the processor, against generation on the processor. Needs g++.

#![cfg(target_os = "linux")]

#[path = "../../tensor/tests/fake_card/mod.rs"]
mod fake_card;
#[path = "card/fp8.rs"]
mod fp8;
#[path = "card/models.rs"]
mod models;
#[path = "card/overlap.rs"]
mod overlap;
mod tiny;

use herd_infer::{ActivationType, CacheType, Device, Error, Generator, Pooling, Sampling, Settings};
use herd_tensor::cuda::{Card, CardError};
use models::{Shape, largest_difference, open_both};
use safetensors::SafeTensors;
use std::path::Path;
use tiny::prompt;

/// Cached tokens are few: what a test does not use need not be taken.
fn settings() -> Settings {
    Settings { cache_tokens: 4096, ..Settings::default() }
}

fn tiny_pair(card: &Card, settings: &Settings) -> [Generator; 2] {
    let tokenizer = tiny::tokenizer();
    let (llama, params) = tiny::model(&tokenizer);
    let host = Generator::new(llama.clone(), params.clone(), tokenizer.clone(), settings.clone()).unwrap();
    [host, Generator::on_card(card, llama, params, tokenizer, settings.clone()).unwrap()]
}

/// Files in f32, bf16 and f16, computed in f32: grouped heads, of 6, 8 and 10 columns, tied and untied, with biases.
#[test]
fn logits_are_those_of_transformers() {
    // Another machine has the files elsewhere (`bench/gpu/pack`).
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf();
    let here = std::env::var_os("HERD_ROOT").map_or(here, |root| Path::new(&root).join("crates/infer"));
    let card = fake_card::open();
    for (name, batch_tokens) in [
        ("mha_tied", 512),
        ("gqa2_bias", 512),
        ("gqa2_bias", 5),
        ("gqa4_llama3", 512),
        ("gqa8_wide", 70),
        ("odd_heads", 512),
        ("llama2", 8),
    ] {
        let folder = here.join("tests/golden/checkpoints").join(name);
        let bytes = std::fs::read(folder.join("expected.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name| file.tensor(name).unwrap().data().as_chunks::<4>().0.to_vec();
        let whole = |name| words(name).into_iter().map(u32::from_le_bytes).collect::<Vec<_>>();
        // 100 of the 300 tokens, which take a ninth of the time.
        let tokens = &whole("tokens")[..100];
        let expected: Vec<f32> = words("logits").into_iter().map(f32::from_le_bytes).collect();
        let settings = Settings { batch_tokens, activations: ActivationType::F32, ..settings() };
        let found = Generator::open_on_card(&card, &folder, settings).unwrap().logits(tokens).unwrap();
        let vocab = found.len() / tokens.len();
        let positions = whole("positions").into_iter().map(|p| p as usize);
        let mut compared = 0;
        for (position, expected) in positions.zip(expected.chunks_exact(vocab)) {
            if position < tokens.len() {
                let off = largest_difference(&found[position * vocab..][..vocab], expected);
                assert!(off < 1e-4, "{name}, {batch_tokens} at once, position {position}: off by {off}");
                compared += 1;
            }
        }
        assert!(compared > 1, "{name}: {compared} positions");
    }
}

/// A model in bf16 in one pass (tiles on tensor cores), in chunks behind a past, and in steps of few rows: nearly as near to
/// f32 as the processor's bf16 is.
fn bf16_logits(shape: &Shape) {
    let card = fake_card::open();
    let exact = Settings { activations: ActivationType::F32, ..settings() };
    let exact = open_both(&card, shape, &exact)[0].logits(&prompt(100, 5)).unwrap();
    for batch_tokens in [200, 66, 3] {
        let settings = Settings { batch_tokens, ..settings() };
        let [host, on_card] = open_both(&card, shape, &settings);
        let tokens = prompt(if batch_tokens == 3 { 70 } else { 100 }, 5);
        let [ours, theirs] = [&on_card, &host].map(|generator| {
            let logits = generator.logits(&tokens).unwrap();
            let square = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let off: Vec<f32> = logits.iter().zip(&exact).map(|(a, b)| a - b).collect();
            (square(&off) / square(&exact[..logits.len()])).sqrt()
        });
        let shares = format!("{batch_tokens} at once: {ours} off, the processor {theirs}");
        println!("{shares}");
        assert!(ours > 0.0 && ours < 1.6 * theirs && ours < 0.03, "{shares}");
    }
}

#[test]
fn logits_in_bf16_with_heads_of_64() {
    bf16_logits(&Shape { heads: 8, kv_heads: 2, head_dim: 64, ..Shape::default() });
}

#[test]
fn logits_in_bf16_with_heads_of_128() {
    bf16_logits(&Shape { heads: 3, kv_heads: 1, head_dim: 128, tied: true, ..Shape::default() });
}

#[test]
fn logits_in_bf16_with_other_heads() {
    bf16_logits(&Shape { heads: 4, kv_heads: 2, head_dim: 32, ..Shape::default() });
}

/// Prompts of many lengths, some of which begin alike, several samples, chunks, guesses, and a cache so small that answers are
/// paused and computed again: the tokens are those of the processor.
#[test]
fn answers_in_f32_are_those_of_the_processor() {
    let card = fake_card::open();
    let prompts: Vec<Vec<u32>> = (0..5).map(|i| prompt(9 + 31 * i % 70, i as u32 / 3)).collect();
    let base = Sampling { max_tokens: 20, seed: 7, ignore_end: true, ..Sampling::default() };
    let cramped = Settings { cache_tokens: 11 * 16, batch_tokens: 24, ..Settings::default() };
    for settings in [Settings { batch_tokens: 64, ..settings() }, cramped] {
        let [host, on_card] = tiny_pair(&card, &settings);
        for sampling in [
            Sampling { temperature: 0.0, logprobs: Some(2), ..base.clone() },
            Sampling { temperature: 0.7, top_p: 0.9, ..base.clone() },
            Sampling { repetition_penalty: 1.2, top_k: 20, ..base.clone() },
        ] {
            let [expected, found] =
                [&host, &on_card].map(|generator| generator.generate(&prompts, 2, &sampling).unwrap());
            for (expected, found) in expected.iter().flatten().zip(found.iter().flatten()) {
                assert_eq!((&found.tokens, &found.text), (&expected.tokens, &expected.text));
                for (found, expected) in found.logprobs.iter().zip(&expected.logprobs) {
                    assert!((found.logprob - expected.logprob).abs() < 1e-3, "{found:?} {expected:?}");
                }
            }
        }
    }
}

/// The same with a model whose heads are as wide as Llama's and share keys, in f32, and with Llama 3's RoPE.
#[test]
fn a_long_greedy_answer_in_f32_is_that_of_the_processor() {
    let card = fake_card::open();
    let shape = Shape { heads: 4, kv_heads: 2, head_dim: 64, scaling: true, float: true, ..Shape::default() };
    let [host, on_card] = open_both(&card, &shape, &settings());
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(40) };
    let [expected, found] = [&host, &on_card].map(|g| g.generate(&[prompt(30, 2)], 1, &sampling).unwrap());
    assert_eq!(found, expected);
}

/// Of a vocabulary that is searched in three parts, in steps of several rows.
#[test]
fn what_is_drawn_from_a_shortlist_is_what_the_processor_draws() {
    let card = fake_card::open();
    let shape = Shape { heads: 2, kv_heads: 1, head_dim: 16, float: true, vocab: 9000, ..Shape::default() };
    let [host, on_card] = open_both(&card, &shape, &settings());
    let base = Sampling { max_tokens: 4, seed: 3, ignore_end: true, ..Sampling::default() };
    for sampling in [
        Sampling { temperature: 0.0, ..base.clone() },
        Sampling { temperature: 0.8, top_p: 0.8, ..base.clone() },
        Sampling { top_k: 50, min_p: 0.01, ..base.clone() },
        base,
    ] {
        let [expected, found] =
            [&host, &on_card].map(|g| g.generate(&[prompt(9, 2), prompt(5, 1)], 2, &sampling).unwrap());
        assert_eq!(found, expected, "{sampling:?}");
    }
}

/// In bf16 most tokens are those of the processor, whose cache is in f16: where two are nearly as likely, either may come.
#[test]
fn several_answers_in_bf16_are_nearly_those_of_the_processor() {
    let card = fake_card::open();
    let shape = Shape { heads: 4, kv_heads: 1, head_dim: 64, ..Shape::default() };
    let [host, on_card] = open_both(&card, &shape, &settings());
    let prompts = [prompt(70, 1), prompt(5, 2), prompt(90, 1)];
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(12) };
    let [expected, found] = [&host, &on_card].map(|g| g.generate(&prompts, 1, &sampling).unwrap());
    let tokens = |answers: &[Vec<herd_infer::Completion>]| -> Vec<u32> {
        answers.iter().flatten().flat_map(|a| a.tokens.clone()).collect()
    };
    let (expected, found) = (tokens(&expected), tokens(&found));
    let same = expected.iter().zip(&found).filter(|(a, b)| a == b).count();
    assert!(same * 10 >= expected.len() * 7, "{same} of {}: {found:?} {expected:?}", expected.len());
    // Whole rows come to the host for log-probabilities; what is drawn is the same.
    let [short, whole] = [None, Some(0)].map(|logprobs| {
        let sampling = Sampling { temperature: 0.9, top_p: 0.8, logprobs, ..sampling.clone() };
        tokens(&on_card.generate(&prompts, 2, &sampling).unwrap())
    });
    assert_eq!(short, whole);
}

#[test]
fn texts_are_embedded_and_scored_as_on_the_processor() {
    let card = fake_card::open();
    let [host, on_card] = tiny_pair(&card, &Settings { batch_tokens: 20, ..settings() });
    let tokens = prompt(50, 3);
    for pooling in [Pooling::Mean, Pooling::Last] {
        let [expected, found] = [&host, &on_card].map(|g| g.embed(&tokens, pooling).unwrap());
        assert!(largest_difference(&expected, &found) < 1e-4);
    }
    let [expected, found] = [&host, &on_card].map(|g| g.score(&tokens).unwrap());
    assert!(largest_difference(&expected, &found) < 1e-3);
}

#[test]
fn a_card_is_asked_for_memory_only_at_first() {
    let card = fake_card::open();
    let [_, on_card] = tiny_pair(&card, &settings());
    let (sampling, mut seen) = (Sampling { ignore_end: true, ..Sampling::greedy(20) }, None);
    for round in 0..3 {
        let prompts: Vec<_> = (0..6).map(|i| prompt(20 + 9 * i, i as u32 + round)).collect();
        on_card.generate(&prompts, 3, &sampling).unwrap();
        let usage = card.usage();
        assert_eq!(*seen.get_or_insert(usage), usage, "round {round}");
    }
    assert!(on_card.graphs() > 1, "steps of several numbers of rows are captured");
    drop(on_card);
    // What cuBLASLt works with stays.
    assert_eq!(card.usage().live, 32 << 20);
}

#[test]
fn the_cache_takes_what_the_card_has_left() {
    let card = fake_card::open();
    let few = Settings { max_sequences: 2, ..Settings::default() };
    let [_, on_card] = tiny_pair(&card, &few);
    // Two answers of the whole context, and no more, as far as there is memory.
    assert_eq!(on_card.settings().cache_tokens, 2 * tiny::CONTEXT);
    assert_eq!(on_card.settings().batch_tokens, 2048);
    let text = on_card.device().unwrap();
    assert!(text.contains("weights in f32") && text.contains("cache of 512 tokens"), "{text}");
    let many = Settings { max_sequences: 100_000, batch_tokens: 64, ..Settings::default() };
    let [_, on_card] = tiny_pair(&card, &many);
    let (bytes, free) = (on_card.cache_bytes(), card.free_memory().unwrap());
    assert!(bytes > 100 << 20 && bytes < free, "{bytes} of {free}");
}

#[test]
fn what_a_card_cannot_do_is_said_before_it_is_tried() {
    let card = fake_card::open();
    let tokenizer = tiny::tokenizer();
    let (llama, params) = tiny::model(&tokenizer);
    let refused = |settings: Settings| {
        let (llama, params) = (llama.clone(), params.clone());
        Generator::on_card(&card, llama, params, tokenizer.clone(), settings).err().unwrap()
    };
    let error = refused(Settings { cache_tokens: 100 << 20, ..Settings::default() });
    assert!(matches!(error, Error::CardMemory { .. }), "{error}");
    let text = error.to_string();
    assert!(["lower `cache_tokens`", "are free", "GB"].iter().all(|part| text.contains(part)), "{text}");
    for cache_type in [CacheType::F16, CacheType::Q8] {
        let text = refused(Settings { cache_type, ..settings() }).to_string();
        assert!(text.contains("cache_type") && text.contains("leave it at auto"), "{text}");
    }
}

/// Where there is no card, that is said before anything of the model is read.
#[test]
fn a_machine_without_a_card_says_so() {
    let settings = Settings { device: Device::Cuda, ..Settings::default() };
    match Generator::open(Path::new("no such model"), settings).err().unwrap() {
        Error::Device(error) => {
            let text = error.to_string();
            assert!(
                text.starts_with("device `cuda` cannot be used") && text.contains("herd doctor"),
                "{text}"
            );
        }
        other => assert!(Card::open(0).is_ok(), "{other}"),
    }
    let _: fn(CardError) -> Error = Error::from;
}

//! What a caller of the generator relies on.

mod tiny;

use herd_infer::{Error, FinishReason, Generator, Sampling, Settings};
use herd_model::{Batch, weights};
use herd_tensor::Tape;
use std::collections::BTreeMap;
use std::path::Path;
use tiny::{CONTEXT, generator, prompt};

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_are_those_of_the_training_model() {
    let tokenizer = tiny::tokenizer();
    let (llama, params) = tiny::model(&tokenizer);
    let tokens = prompt(150, 1);
    let mut tape = Tape::no_grad(&params);
    let hidden = llama.hidden(&mut tape, &Batch::sequence(tokens.clone()));
    let expected = tape.linear(&hidden, llama.head());
    let generator = generator(Settings { batch_tokens: 64, ..Settings::default() });
    let found = generator.logits(&tokens).unwrap();
    let off = largest_difference(&found, expected.value().as_slice());
    assert!(off < 1e-3, "off by {off}");
}

#[test]
fn logits_are_those_of_transformers() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/golden");
    for name in ["gqa4", "mha-tied", "odd-heads", "llama31-rope"] {
        let (llama, params) = weights::load(&golden.join(name)).unwrap();
        let file = std::fs::read(golden.join(name).join("expected.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        let expected: Vec<f32> = (file.tensor("logits").unwrap().data().chunks_exact(4))
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 97).collect();
        for batch_tokens in [1, 7, 64] {
            let settings = Settings { batch_tokens, ..Settings::default() };
            let generator =
                Generator::new(llama.clone(), params.clone(), tiny::tokenizer(), settings).unwrap();
            let off = largest_difference(&generator.logits(&tokens).unwrap(), &expected);
            assert!(off < 1e-4, "{name} in batches of {batch_tokens}: off by {off}");
        }
    }
}

#[test]
fn an_answer_has_the_same_bits_alone_and_in_any_batch() {
    let prompts: Vec<Vec<u32>> = (0..9).map(|i| prompt(3 + 17 * i, i as u32)).collect();
    let sampling = Sampling { max_tokens: 20, seed: 5, logprobs: Some(2), ..Sampling::default() };
    for sampling in [Sampling { temperature: 0.0, ..sampling.clone() }, Sampling { top_p: 0.9, ..sampling }] {
        let reference: Vec<_> = (prompts.iter())
            .map(|p| {
                generator(Settings::default())
                    .generate(std::slice::from_ref(p), 1, &sampling)
                    .unwrap()
                    .remove(0)
            })
            .collect();
        for (max_sequences, batch_tokens, threads) in [(64, 256, 1), (16, 16, 2), (4, 5, 3), (1, 1, 2)] {
            let settings = Settings { max_sequences, batch_tokens, ..Settings::default() };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let together = pool.install(|| generator(settings).generate(&prompts, 1, &sampling)).unwrap();
            assert_eq!(
                together, reference,
                "{max_sequences} at once, {batch_tokens} rows, {threads} threads"
            );
        }
    }
}

#[test]
fn guesses_change_no_bit_of_an_answer() {
    // Prompts that repeat themselves, and greedy answers of a random model, which soon do.
    let prompts: Vec<Vec<u32>> =
        (0..4).map(|i| [prompt(12, i), prompt(12, i), prompt(7, i)].concat()).collect();
    let sampling = Sampling { max_tokens: 60, logprobs: Some(1), ignore_end: true, ..Sampling::default() };
    for temperature in [0.0, 0.4] {
        let sampling = Sampling { temperature, ..sampling.clone() };
        let plain = generator(Settings { lookup_tokens: 0, ..Settings::default() });
        let expected = plain.generate(&prompts, 2, &sampling).unwrap();
        for (max_sequences, lookup_tokens) in [(64, 7), (2, 7), (2, 1)] {
            let settings = Settings { max_sequences, lookup_tokens, ..Settings::default() };
            let found = generator(settings).generate(&prompts, 2, &sampling).unwrap();
            assert_eq!(found, expected, "{lookup_tokens} guesses, {max_sequences} at once");
        }
    }
}

#[test]
fn the_answers_do_not_depend_on_the_number_of_samples() {
    let generator = generator(Settings::default());
    let prompts = [prompt(37, 1), prompt(48, 2)];
    let sampling = Sampling { max_tokens: 24, seed: 3, ..Sampling::default() };
    let four = generator.generate(&prompts, 4, &sampling).unwrap();
    let two = generator.generate(&prompts, 2, &sampling).unwrap();
    assert_eq!(four[0][..2], two[0][..]);
    assert_eq!(four[1][..2], two[1][..]);
    for answers in &four {
        for (i, a) in answers.iter().enumerate() {
            assert!(answers[..i].iter().all(|b| a.tokens != b.tokens), "samples differ");
        }
    }
    let other_seed = generator.generate(&prompts, 4, &Sampling { seed: 4, ..sampling }).unwrap();
    assert_ne!(four, other_seed);
}

#[test]
fn what_does_not_fit_at_once_takes_turns() {
    // 10 pages of prompt and 1 of answer for each sample, in 14 pages.
    let sampling = Sampling { max_tokens: 16, ignore_end: true, ..Sampling::default() };
    let small = generator(Settings { cache_tokens: 14 * 16, ..Settings::default() });
    let roomy = generator(Settings::default());
    for samples in [4, 9] {
        let answers = small.generate(&[prompt(160, 1)], samples, &sampling).unwrap();
        assert_eq!(answers, roomy.generate(&[prompt(160, 1)], samples, &sampling).unwrap());
    }
    let prompts: Vec<_> = (0..5).map(|i| prompt(100, i)).collect();
    let answers = small.generate(&prompts, 2, &sampling).unwrap();
    assert!(answers.iter().flatten().all(|a| a.tokens.len() == 16));
    // One answer must fit by itself.
    let refused = small.generate(&[prompt(210, 1)], 1, &sampling);
    assert!(matches!(refused, Err(Error::DoesNotFit { needed: 240, cache: 224 })), "{refused:?}");
}

#[test]
fn end_tokens_stop_strings_and_limits_end_an_answer() {
    let generator = generator(Settings::default());
    let eot = generator.tokenizer().specials().eot;
    let p = [prompt(10, 1)];
    let run = |sampling: &Sampling| generator.generate(&p, 1, sampling).unwrap().remove(0).remove(0);

    let always_end = BTreeMap::from([(eot, 100.0)]);
    let ended = run(&Sampling { logit_bias: always_end, ..Sampling::greedy(8) });
    assert_eq!((ended.tokens.len(), ended.text.as_str(), ended.finish_reason), (0, "", FinishReason::Stop));

    // Only letters, so that every token is text.
    let letters = ('a'..='z').map(|c| (generator.tokenizer().encode(&c.to_string())[0], 100.0)).collect();
    let letters = Sampling { logit_bias: letters, ..Sampling::greedy(60) };
    let full = run(&letters);
    assert_eq!((full.tokens.len(), full.text.len(), full.finish_reason), (60, 60, FinishReason::Length));

    // A stop string over the borders of three tokens.
    let stop = full.text[30..33].to_string();
    let first = full.text.find(&stop).unwrap();
    let stopped = run(&Sampling { stop: vec!["<>".into(), stop], ..letters.clone() });
    assert_eq!((stopped.text.as_str(), stopped.finish_reason), (&full.text[..first], FinishReason::Stop));
    assert_eq!(stopped.tokens, full.tokens[..first + 3]);

    let stop_tokens = vec![full.tokens[5]];
    let stopped = run(&Sampling { stop_tokens, ..letters });
    let first = full.tokens.iter().position(|t| *t == full.tokens[5]).unwrap();
    assert_eq!(stopped.tokens, full.tokens[..first]);

    // The context ends an answer too.
    let long = [prompt(CONTEXT - 5, 1)];
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(100) };
    let short = generator.generate(&long, 1, &sampling).unwrap().remove(0).remove(0);
    assert_eq!((short.tokens.len(), short.finish_reason), (5, FinishReason::Length));
}

#[test]
fn scores_are_the_log_probabilities_of_the_tokens() {
    let generator = generator(Settings { batch_tokens: 10, ..Settings::default() });
    let p = prompt(25, 1);
    let sampling = Sampling { logprobs: Some(0), ignore_end: true, max_tokens: 12, ..Sampling::default() };
    let answer = generator.generate(std::slice::from_ref(&p), 1, &sampling).unwrap().remove(0).remove(0);
    let whole = [p.clone(), answer.tokens.clone()].concat();
    let scores = generator.score(&whole).unwrap();
    let drawn: Vec<f32> = answer.logprobs.iter().map(|l| l.logprob).collect();
    assert_eq!(scores[p.len() - 1..], drawn);
}

#[test]
fn requests_that_cannot_be_answered_say_why() {
    let generator = generator(Settings::default());
    let fail = |prompt: Vec<u32>, n: usize, sampling: &Sampling| {
        generator.generate(&[prompt], n, sampling).unwrap_err().to_string()
    };
    let greedy = Sampling::greedy(4);
    assert!(fail(vec![], 1, &greedy).contains("empty"));
    assert!(fail(prompt(CONTEXT, 1), 1, &greedy).contains("256"));
    assert!(fail(vec![1, 99_999], 1, &greedy).contains("99999"));
    assert!(fail(vec![1], 0, &greedy).contains("samples"));
    assert!(fail(vec![1], 1, &Sampling { top_p: 2.0, ..greedy }).contains("`top_p`"));
}

#[test]
fn a_stop_request_ends_generation_between_two_tokens() {
    let generator = generator(Settings::default());
    let stop = herd_run::Stop::default();
    stop.request();
    let result = generator.generate_with(&[prompt(5, 1)], 1, &Sampling::greedy(5), &stop, |_| {});
    assert!(matches!(result, Err(Error::Interrupted(_))));
}

#[test]
fn a_saved_model_opens_and_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tiny::tokenizer();
    let (llama, params) = tiny::model(&tokenizer);
    tokenizer.save(folder.path()).unwrap();
    weights::save(folder.path(), &llama, &params).unwrap();
    let opened = Generator::open(folder.path(), Settings::default()).unwrap();
    let sampling = Sampling { max_tokens: 20, ..Sampling::default() };
    let prompts = [prompt(30, 1)];
    let expected = generator(Settings::default()).generate(&prompts, 1, &sampling).unwrap();
    assert_eq!(opened.generate(&prompts, 1, &sampling).unwrap(), expected);

    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = Generator::open(folder.path(), Settings::default()).err().unwrap().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
}

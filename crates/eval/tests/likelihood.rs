//! Likelihoods with a shared prefix against the same sequences run one by one, each as a plain causal sequence.

mod small_run;

use herd_eval::Error;
use herd_eval::likelihood::{Request, Scorer};
use herd_model::Batch;
use herd_run::Context;
use herd_run::Random;
use herd_tensor::Tape;
use small_run::{SmallRun, make};

/// `Σ log p` of `continuation` after `prefix`, from the whole logits of one sequence in f64.
fn plain(run: &SmallRun, prefix: &[u32], continuation: &[u32]) -> f64 {
    let mut tape = Tape::no_grad(&run.params);
    let tokens = [prefix, continuation].concat();
    let hidden = run.llama.hidden(&mut tape, &Batch::sequence(tokens));
    let logits = tape.linear(&hidden, run.llama.head());
    let value = tape.value(&logits);
    (0..continuation.len())
        .map(|i| {
            let row = value.row(prefix.len() + i - 1);
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|&z| f64::from(z - max).exp()).sum();
            f64::from(row[continuation[i] as usize] - max) - sum.ln()
        })
        .sum()
}

fn tokens(random: Random, n: usize, vocabulary: usize) -> Vec<u32> {
    (0..n as u64).map(|i| random.pick(i, vocabulary) as u32).collect()
}

#[test]
fn a_shared_prefix_changes_nothing_but_the_cost() {
    let run = make(5);
    let v = run.tokenizer.vocab_size();
    let requests: Vec<Request> = (0..9u64)
        .map(|i| {
            let random = Random::new(i, &[]);
            let prefix = tokens(random.stream(0), 1 + i as usize * 5, v);
            let continuations =
                (1..=1 + i % 4).map(|c| tokens(random.stream(c), (c * (i + 1) % 7 + 1) as usize, v));
            Request { prefix, continuations: continuations.collect() }
        })
        .collect();
    for batch_rows in [1, 40, 4096] {
        let scorer = Scorer { llama: &run.llama, params: &run.params, batch_rows };
        let mut done = 0;
        let scores = scorer.score(requests.clone(), &Context::quiet(), |n| done += n).unwrap();
        assert_eq!(done, requests.len() as u64);
        for (request, scores) in requests.iter().zip(scores) {
            assert_eq!(scores.len(), request.continuations.len());
            for (continuation, score) in request.continuations.iter().zip(scores) {
                let expected = plain(&run, &request.prefix, continuation);
                assert!((score - expected).abs() < 1e-4 * expected.abs(), "{score} against {expected}");
            }
        }
    }
}

#[test]
fn a_prefix_too_long_for_the_context_loses_its_beginning() {
    let run = make(5);
    let context = run.llama.config.max_position_embeddings;
    let ids = tokens(Random::new(1, &[]), context + 50, run.tokenizer.vocab_size());
    let (prefix, continuation) = ids.split_at(context + 44);
    let request = Request { prefix: prefix.to_vec(), continuations: vec![continuation.to_vec(), vec![1]] };
    let scorer = Scorer { llama: &run.llama, params: &run.params, batch_rows: 64 };
    let score = scorer.score(vec![request], &Context::quiet(), |_| {}).unwrap()[0][0];
    // Six tokens are predicted by the last `context` rows, the last of them not being read.
    let kept = &prefix[prefix.len() - (context - 5)..];
    let expected = plain(&run, kept, &continuation[..5]);
    assert!(score < expected && score.is_finite());
    let shorter = Request { prefix: kept.to_vec(), continuations: vec![continuation.to_vec(), vec![1]] };
    assert_eq!(score, scorer.score(vec![shorter], &Context::quiet(), |_| {}).unwrap()[0][0]);
}

#[test]
fn a_model_that_gives_no_numbers_is_reported() {
    let mut run = make(5);
    run.params.flat_mut().fill(f32::NAN);
    let scorer = Scorer { llama: &run.llama, params: &run.params, batch_rows: 64 };
    let request = Request { prefix: vec![1], continuations: vec![vec![2, 3]] };
    let error = scorer.score(vec![request], &Context::quiet(), |_| {}).unwrap_err();
    assert!(matches!(error, Error::NotANumber(_)) && error.to_string().contains("example 0"));
}

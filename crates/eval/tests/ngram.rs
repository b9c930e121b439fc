//! The n-gram models against an independent Python implementation, and their invariants.

use herd_eval::ngram::{NGram, NGramError};
use herd_run::Random;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct Golden {
    vocabulary: usize,
    documents: Vec<Vec<u32>>,
    discounts: BTreeMap<usize, BTreeMap<usize, [f64; 3]>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    order: usize,
    context: Vec<u32>,
    word: u32,
    p: f64,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/kneser_ney.json")).unwrap()
}

#[test]
fn probabilities_and_discounts_agree_with_the_python_reference() {
    let golden = golden();
    let models: Vec<_> =
        (1..=3).map(|n| NGram::train(&golden.documents[..], golden.vocabulary, n).unwrap()).collect();
    for (order, levels) in &golden.discounts {
        for (length, expected) in levels {
            let ours = models[order - 1].discounts()[length - 1].0;
            assert!(
                ours.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12),
                "{order} {length}: {ours:?}"
            );
        }
    }
    assert_eq!(golden.cases.len(), 360);
    for case in &golden.cases {
        let p = models[case.order - 1].probability(&case.context, case.word);
        assert!((p / case.p - 1.0).abs() < 1e-6, "{:?} {}: {p} against {}", case.context, case.word, case.p);
    }
}

#[test]
fn probabilities_sum_to_one_after_every_context() {
    let golden = golden();
    let vocabulary = golden.vocabulary as u32;
    for order in 1..=3 {
        let model = NGram::train(&golden.documents[..], golden.vocabulary, order).unwrap();
        let contexts = (0..vocabulary).flat_map(|a| (0..vocabulary).map(move |b| vec![a, b]));
        let short = (0..vocabulary).map(|a| vec![a]).chain([vec![]]);
        for context in contexts.chain(short) {
            let sum: f64 = (0..vocabulary).map(|w| model.probability(&context, w)).sum();
            assert!((sum - 1.0).abs() < 1e-5, "order {order}, context {context:?}: {sum}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let random = Random::new(9, &[]);
    let documents: Vec<Vec<u32>> = (0..700)
        .map(|d| {
            let body =
                (0..40).map(|i| random.stream(d).pick(i, 90).min(random.stream(d).pick(i + 99, 90)) as u32);
            [99].into_iter().chain(body).chain([98]).collect()
        })
        .collect();
    let bits = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let model = NGram::train(&documents[..], 100, 3).unwrap();
            documents.iter().map(|d| model.bits(d).to_bits()).collect::<Vec<_>>()
        })
    };
    assert_eq!(bits(1), bits(4));
}

#[test]
fn more_context_helps_on_a_chain_that_has_memory() {
    // Token i + 1 follows from the two before it, so each order must be clearly better than the one below.
    let random = Random::new(2, &[]);
    let document = |d: u64| {
        let mut ids = vec![30u32];
        let (mut a, mut b) = (random.stream(d).pick(0, 30) as u32, random.stream(d).pick(1, 30) as u32);
        for i in 0..80 {
            ids.push(b);
            let noise = random.stream(d).pick(10 + i, 3) as u32;
            (a, b) = (b, (a * 7 + b * 3 + noise) % 30);
        }
        ids
    };
    let train: Vec<_> = (0..300).map(document).collect();
    let held_out: Vec<_> = (300..330).map(document).collect();
    let bits: Vec<f64> = (1..=3)
        .map(|order| {
            let model = NGram::train(&train[..], 31, order).unwrap();
            held_out.iter().map(|d| model.bits(d)).sum::<f64>() / (30.0 * 80.0)
        })
        .collect();
    assert!(bits[0] > 4.5 && bits[2] < 2.5 && bits[1] > bits[2] + 1.0, "{bits:?}");
}

#[test]
fn wrong_input_is_named() {
    let train = |documents: &[Vec<u32>], order| NGram::train(documents, 10, order).map(|_| ()).unwrap_err();
    assert!(matches!(train(&[vec![9, 1]], 4), NGramError::Order(4)));
    assert!(matches!(train(&[vec![9, 1]], 0), NGramError::Order(0)));
    let message = train(&[vec![9, 1], vec![9, 10]], 2).to_string();
    assert!(message.contains("document 1") && message.contains("token 10"), "{message}");
    assert!(train(&[vec![9], vec![]], 2).to_string().contains("is empty"));
    assert!(train(&[vec![9, 1], vec![8, 1]], 2).to_string().contains("begins with token 8"));
    assert!(train(&[vec![9, 1, 9, 2]], 2).to_string().contains("repeats"));
    assert!(matches!(NGram::train(&[vec![0]][..], 0, 1), Err(NGramError::Vocabulary(0))));
}

#[test]
fn an_empty_or_tiny_corpus_gives_a_proper_distribution() {
    for documents in [vec![], vec![vec![3u32]], vec![vec![3, 1]]] {
        for order in 1..=3 {
            let model = NGram::train(&documents[..], 4, order).unwrap();
            let sum: f64 = (0..4).map(|w| model.probability(&[3, 1], w)).sum();
            assert!((sum - 1.0).abs() < 1e-6);
            assert!(model.bits(&[3, 2, 0]).is_finite());
            assert_eq!(
                model.probability(&[3, 77], 1),
                model.probability(&[], 1),
                "an unknown context is no context"
            );
            assert_eq!(model.probability(&[], 4), 0.0);
        }
    }
}

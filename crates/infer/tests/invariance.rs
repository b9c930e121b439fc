//! The same request has the same answer, to the bit, in a batch of any size, with its prompt in the cache and without.

mod tiny;

use herd_infer::{Batcher, Event, Generator, Grammar, Request, Sampling, Settings, TokenLogprob};
use std::collections::BTreeMap;
use std::sync::mpsc::Receiver;
use tiny::{generator, prompt};

type Answer = (Vec<u32>, Vec<TokenLogprob>);

fn collect(events: &Receiver<Event>) -> (Answer, usize) {
    let (mut answer, mut cached) = (Answer::default(), 0);
    for event in events {
        match event {
            Event::Started { cached_tokens } => cached = cached_tokens,
            Event::Token { token, logprob, .. } => {
                answer.0.push(token);
                answer.1.extend(logprob);
            }
            Event::Finished { .. } => return (answer, cached),
        }
    }
    panic!("the answer broke off");
}

/// All kinds of drawing: greedy, filtered, with penalties, of a given form.
fn kinds(generator: &Generator) -> Vec<Sampling> {
    let base =
        Sampling { max_tokens: 24, seed: 9, logprobs: Some(3), ignore_end: true, ..Sampling::default() };
    let form = generator.compile(&Grammar::Regex("([a-z]{1,4} ){9,30}".into())).unwrap();
    vec![
        Sampling { temperature: 0.0, ..base.clone() },
        Sampling { top_k: 40, top_p: 0.9, min_p: 0.02, ..base.clone() },
        Sampling { repetition_penalty: 1.2, frequency_penalty: 0.3, presence_penalty: 0.2, ..base.clone() },
        Sampling { logit_bias: BTreeMap::from([(40, 3.0), (41, -100.0)]), temperature: 1.7, ..base.clone() },
        Sampling { constraint: Some(form), ignore_end: false, ..base },
    ]
}

#[test]
fn an_answer_has_the_same_bits_in_a_batch_of_1_to_16_with_and_without_prefix_hits() {
    let generator = generator(Settings::default());
    for sampling in kinds(&generator) {
        let request =
            |seed: u32| Request { prompt: prompt(45, seed), samples: 1, sampling: sampling.clone() };
        let alone = {
            let batcher = Batcher::new(&generator).unwrap();
            let (_job, events) = batcher.submit(request(1)).unwrap();
            let (answer, cached) = collect(&events);
            assert_eq!(cached, 0);
            answer
        };
        assert!(!alone.0.is_empty() && alone.0.len() == alone.1.len());
        let batcher = Batcher::new(&generator).unwrap();
        let mut hits = 0;
        for size in 1..=16 {
            // The request stands at a place of its own in each batch; the others have prompts of other lengths.
            let jobs: Vec<_> = (0..size)
                .map(|i| {
                    let mine = i == size * 5 % 7 % size;
                    let mut other = request(100 + size + i);
                    other.prompt.truncate(3 + (7 * i as usize) % 40);
                    (mine, batcher.submit(if mine { request(1) } else { other }).unwrap())
                })
                .collect();
            for (mine, (_job, events)) in &jobs {
                let (answer, cached) = collect(events);
                if *mine {
                    hits += usize::from(cached > 0);
                    assert_eq!(answer, alone, "in a batch of {size}, {cached} tokens from the cache");
                }
            }
        }
        assert!((1..16).contains(&hits), "with hits ({hits}) and without");
    }
}

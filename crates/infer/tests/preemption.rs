//! Answers that lose their pages to older ones, and go on later as if nothing had been.

mod tiny;

use herd_infer::{
    Batcher, Completion, Event, FinishReason, Generator, Grammar, Load, Request, Sampling, Settings,
};
use std::collections::BTreeMap;
use std::sync::mpsc;
use tiny::{generator, prompt};

/// Of 16 tokens each; the longest answer here needs 10.
const PAGES: usize = 12;

fn cramped() -> Generator {
    generator(Settings { cache_tokens: PAGES * 16, batch_tokens: 24, ..Settings::default() })
}

/// Prompts of all lengths up to 100, some of which begin alike, and some with several samples.
fn requests(sampling: &Sampling) -> Vec<Request> {
    (0..14)
        .map(|i| {
            let mut prompt = prompt(20 + 83 * i as usize % 80, i / 3);
            prompt.push(i);
            let max_tokens = 20 + 17 * i as usize % 35;
            let samples = [1, 1, 3, 1, 2][i as usize % 5];
            Request { prompt, samples, sampling: Sampling { max_tokens, ..sampling.clone() } }
        })
        .collect()
}

/// Sends all requests at once and returns all answers, the order of their ends, and the load at the end.
fn together(
    generator: &Generator,
    requests: &[Request],
) -> (Vec<Vec<Completion>>, Vec<(usize, usize)>, Load) {
    let batcher = Batcher::new(generator).unwrap();
    let (sender, events) = mpsc::channel();
    let empty = Completion {
        tokens: Vec::new(),
        text: String::new(),
        finish_reason: FinishReason::Cancelled,
        logprobs: Vec::new(),
    };
    let mut answers: Vec<Vec<Completion>> = requests.iter().map(|r| vec![empty.clone(); r.samples]).collect();
    // The first request holds the batcher's thread until all others are there, so that what happens is always the same.
    let (go, wait) = mpsc::channel::<()>();
    let gate = Request { prompt: vec![1], samples: 1, sampling: Sampling::greedy(1) };
    let gate = batcher.submit_to(gate, move |_| wait.recv().is_ok()).unwrap();
    let submitted: Vec<_> = (requests.iter().enumerate())
        .map(|(i, request)| {
            let sender = sender.clone();
            batcher.submit_to(request.clone(), move |event| sender.send((i, event)).is_ok()).unwrap()
        })
        .collect();
    drop((sender, go));
    let (mut ends, mut started) = (Vec::new(), vec![0; requests.len()]);
    for (i, event) in events {
        match event {
            Event::Started { .. } => started[i] += 1,
            Event::Token { sample, token, text, logprob } => {
                let answer = &mut answers[i][sample];
                answer.tokens.push(token);
                answer.text.push_str(&text);
                answer.logprobs.extend(logprob);
            }
            Event::Finished { sample, text, reason } => {
                let answer = &mut answers[i][sample];
                answer.text.push_str(&text);
                answer.finish_reason = reason;
                ends.push((i, sample));
            }
        }
    }
    assert!(started.iter().all(|&n| n == 1), "each request begins once: {started:?}");
    drop((gate, submitted));
    (answers, ends, settled(&batcher))
}

fn settled(batcher: &Batcher) -> Load {
    loop {
        let load = batcher.load();
        if load.running + load.waiting + load.paused == 0 {
            return load;
        }
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_has_the_same_bits_whether_it_was_preempted_or_not() {
    let (cramped, roomy) = (cramped(), generator(Settings::default()));
    let base = Sampling { seed: 4, logprobs: Some(2), ignore_end: true, ..Sampling::default() };
    let form = |g: &Generator| Some(g.compile(&Grammar::Regex("([a-z]{1,4} ){9,30}".into())).unwrap());
    for (kind, sampling) in [
        Sampling { temperature: 0.0, ..base.clone() },
        Sampling { top_p: 0.9, stop: vec!["aa".into(), "the cat".into()], ..base.clone() },
        Sampling { repetition_penalty: 1.3, frequency_penalty: 0.4, ..base.clone() },
        Sampling { logit_bias: BTreeMap::from([(40, 3.0)]), ignore_end: false, ..base.clone() },
    ]
    .into_iter()
    .enumerate()
    {
        let requests = requests(&sampling);
        let (found, _, load) = together(&cramped, &requests);
        for (request, found) in requests.iter().zip(&found) {
            let alone =
                roomy.generate(std::slice::from_ref(&request.prompt), request.samples, &request.sampling);
            assert_eq!(found, &alone.unwrap()[0], "kind {kind}, prompt of {}", request.prompt.len());
        }
        assert!(load.preemptions > 0 && load.recomputed_tokens > 0, "kind {kind}: {load:?}");
        assert_eq!((load.pages_used, load.pages), (0, PAGES));
    }
    // A form is followed token by token, over the pause too.
    let held = |g: &Generator| Sampling { constraint: form(g), ignore_end: false, ..base.clone() };
    let (found, _, load) = together(&cramped, &requests(&held(&cramped)));
    for (request, found) in requests(&held(&roomy)).iter().zip(&found) {
        let alone = roomy.generate(std::slice::from_ref(&request.prompt), request.samples, &request.sampling);
        assert_eq!(found, &alone.unwrap()[0]);
    }
    assert!(load.preemptions > 0, "{load:?}");
}

#[test]
fn answers_of_one_length_end_in_the_order_of_their_arrival() {
    // Only the youngest ever give way, so none overtakes an older one.
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(60) };
    let requests: Vec<Request> =
        (0..20).map(|i| Request { prompt: prompt(40, i), samples: 1, sampling: sampling.clone() }).collect();
    let generator = generator(Settings { cache_tokens: PAGES * 16, lookup_tokens: 0, ..Settings::default() });
    let (_, ends, load) = together(&generator, &requests);
    assert!(load.preemptions > 0, "{load:?}");
    assert!(ends.is_sorted(), "{ends:?}");
}

#[test]
fn an_answer_that_fills_the_whole_cache_is_finished_among_others() {
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(PAGES * 16 - 30) };
    let request = |i: u32| Request { prompt: prompt(30, i), samples: 1, sampling: sampling.clone() };
    let (answers, _, load) = together(&cramped(), &[request(1), request(2), request(3)]);
    assert!(answers.iter().all(|a| a[0].tokens.len() == PAGES * 16 - 30));
    assert!(load.preemptions > 0 && load.pages_used == 0, "{load:?}");
}

#[test]
fn requests_that_are_dropped_while_paused_leave_nothing_behind() {
    let batcher = Batcher::new(&cramped()).unwrap();
    let sampling = Sampling { ignore_end: true, ..Sampling::greedy(100) };
    for round in 0..6 {
        let mut jobs: Vec<_> = (0..8)
            .map(|i| {
                let prompt = prompt(50, 10 * round + i);
                batcher.submit(Request { prompt, samples: 2, sampling: sampling.clone() }).unwrap()
            })
            .collect();
        // The first one says a few words, during which the others are preempted; then most hang up.
        let (_, events) = &jobs[0];
        for _ in 0..40 + 10 * round {
            events.recv().unwrap();
        }
        jobs.truncate(1 + round as usize % 2);
        for (_job, events) in &jobs {
            let finished = events.iter().filter(|e| matches!(e, Event::Finished { .. })).count();
            assert_eq!(finished, 2);
        }
    }
    let load = settled(&batcher);
    assert!(load.preemptions > 0, "{load:?}");
    assert_eq!(load.pages_used, 0);
}

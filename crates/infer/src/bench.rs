//! Measures a model: how long it takes to open, to read prompts and to write answers.

use crate::request::{Event, Request};
use crate::{Error, Generator, Sampling, Settings};
use herd_run::SettingError;
use serde::Serialize;
use std::path::Path;
use std::time::Instant;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens of each answer.
    pub new_tokens: usize,
    /// Requests at once.
    pub requests: usize,
    /// Times that everything is measured, opening included.
    pub rounds: usize,
    /// Types of the cache and of activations; the rest is set to suit the requests.
    pub settings: Settings,
}

/// What one round took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Opening the model and its tokenizer, seconds.
    pub load_s: f64,
    /// From the beginning to the first token of an answer to one request, seconds.
    pub first_token_s: f64,
    /// Prompt tokens of all requests, a second, after that first answer and with the weights packed.
    pub prefill_tokens_per_s: f64,
    /// Answer tokens of all requests after the first of each, a second.
    pub decode_tokens_per_s: f64,
    /// Largest resident memory of the process until now, MB (10^6 bytes); 0 where the system does not tell.
    pub peak_rss_mb: f64,
    /// Largest part of a card's memory in use in this round, MB; 0 on the processor.
    pub peak_card_mb: f64,
}

/// Measures `options.rounds` times; `each` gets the figures as they come.
///
/// The prompts are arbitrary different tokens, so nothing is found in the cache; answers are greedy and do not end
/// before their time.
///
/// # Errors
/// The model cannot be opened, or the requests do not fit its context or the cache.
pub fn run(model: &Path, options: &Options, mut each: impl FnMut(&Round)) -> Result<(), Error> {
    if options.requests == 0 {
        return Err(SettingError::new("requests", "0 requests show nothing; at least 1").into());
    }
    for _ in 0..options.rounds {
        let begin = Instant::now();
        let per_request = options.prompt_tokens + options.new_tokens;
        let settings = Settings {
            cache_tokens: options.requests * (per_request + 16),
            max_sequences: options.requests.max(1),
            // Arbitrary tokens lead to answers that repeat themselves, which would be guessed too well.
            lookup_tokens: 0,
            ..options.settings.clone()
        };
        let generator = Generator::open(model, settings)?;
        let load_s = begin.elapsed().as_secs_f64();
        let sampling = Sampling { ignore_end: true, ..Sampling::greedy(options.new_tokens) };
        let request = |number: usize, sampling: &Sampling| {
            let vocab = generator.config().vocab_size;
            let token = |i: usize| ((i * 7919 + number * 104_729 + 1) % vocab) as u32;
            let prompt = (0..options.prompt_tokens).map(token).collect();
            Request { prompt, samples: 1, sampling: sampling.clone() }
        };
        let mut engine = generator.engine();
        engine.submit(request(0, &Sampling { max_tokens: 1, ..sampling.clone() }))?;
        while !engine.idle() {
            engine.step()?;
        }
        let first_token_s = begin.elapsed().as_secs_f64();
        // From here on as a server that has been running for a moment, with an empty cache.
        while engine.prepare() {}
        let mut engine = generator.engine();
        for number in 0..options.requests {
            engine.submit(request(number, &sampling))?;
        }
        let start = Instant::now();
        let mut prefilled = start;
        let mut waiting = options.requests;
        let mut late_tokens = 0;
        while !engine.idle() {
            for (_, event) in engine.step()? {
                match event {
                    Event::Started { .. } => {
                        waiting -= 1;
                        prefilled = Instant::now();
                    }
                    Event::Token { .. } if waiting == 0 => late_tokens += 1,
                    _ => {}
                }
            }
        }
        let prefill_s = (prefilled - start).as_secs_f64();
        // The step that ended the last prompt gave one token to every request.
        let decoded = late_tokens - options.requests.min(late_tokens);
        each(&Round {
            load_s,
            first_token_s,
            prefill_tokens_per_s: (options.requests * options.prompt_tokens) as f64 / prefill_s,
            decode_tokens_per_s: decoded as f64 / prefilled.elapsed().as_secs_f64(),
            peak_rss_mb: peak_rss_mb(),
            peak_card_mb: generator.card_usage().map_or(0.0, |usage| usage.peak_live as f64 / 1e6),
        });
    }
    Ok(())
}

/// `VmHWM` of this process.
fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1e6
}

//! From logits to a token: penalties, temperature, top-k, top-p, min-p, and a draw that depends only on the seed,
//! the prompt and the position.

mod shortlist;

use crate::constraint::{Constraint, Follower};
use crate::random::uniform;
use herd_run::SettingError;
use serde::{Deserialize, Serialize};
pub(crate) use shortlist::{Row, Shortlist};
use std::collections::BTreeMap;

/// Most stop strings of one request.
pub const MAX_STOPS: usize = 64;
/// Most bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// Most alternatives per position that `logprobs` gives.
pub const MAX_TOP_LOGPROBS: usize = 64;

/// How a completion is drawn. The order is that of vLLM and Transformers: penalties, bias, form, temperature, top-k,
/// top-p, min-p.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// 0 takes the likeliest token (the lowest id among equals).
    pub temperature: f32,
    /// Keep the `top_k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens whose probability reaches `top_p` (arXiv 1904.09751).
    pub top_p: f32,
    /// Drop tokens less likely than `min_p` times the likeliest (arXiv 2407.01082).
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens of the prompt and the answer (arXiv 1909.05858);
    /// 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from a token's logit once for each time it is in the answer.
    pub frequency_penalty: f32,
    /// Subtracted from a token's logit once if it is in the answer.
    pub presence_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Same seed, prompt and settings: same answer, whatever else is generated at the same time.
    pub seed: u64,
    /// Most tokens of the answer.
    pub max_tokens: usize,
    /// The answer ends before the first of these strings.
    pub stop: Vec<String>,
    /// The answer ends before the first of these tokens, besides the model's own end tokens.
    pub stop_tokens: Vec<u32>,
    /// Go on over the model's own end tokens (for benchmarks).
    pub ignore_end: bool,
    /// Give the log-probability of each token and of this many likeliest alternatives.
    pub logprobs: Option<usize>,
    /// The form that the answer must have.
    #[serde(skip)]
    pub constraint: Option<Constraint>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            seed: 0,
            max_tokens: 256,
            stop: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_end: false,
            logprobs: None,
            constraint: None,
        }
    }
}

impl Sampling {
    /// The likeliest token each time.
    pub fn greedy(max_tokens: usize) -> Self {
        Self { temperature: 0.0, max_tokens, ..Self::default() }
    }

    /// Checks every value; the error names the field.
    pub fn validate(&self) -> Result<(), SettingError> {
        let within = |key: &str, value: f32, low: f32, high: f32| {
            let fits = value.is_finite() && value >= low && value <= high;
            fits.then_some(())
                .ok_or_else(|| SettingError::new(key, format!("{value} is not between {low} and {high}")))
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            let problem = format!("{} is not above 0 and at most 1", self.top_p);
            return Err(SettingError::new("top_p", problem));
        }
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        within("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        for (token, bias) in &self.logit_bias {
            within(&format!("logit_bias.{token}"), *bias, -100.0, 100.0)?;
        }
        if self.max_tokens == 0 {
            return Err(SettingError::new("max_tokens", "0 tokens leave no answer; at least 1"));
        }
        if self.stop.len() > MAX_STOPS {
            let problem = format!("{} stop strings; at most {MAX_STOPS}", self.stop.len());
            return Err(SettingError::new("stop", problem));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(SettingError::new("stop", "a stop string is empty; it would stop at once"));
        }
        if self.stop.iter().any(|s| s.len() > MAX_STOP_BYTES) {
            return Err(SettingError::new(
                "stop",
                format!("a stop string is longer than {MAX_STOP_BYTES} bytes"),
            ));
        }
        if self.logprobs.is_some_and(|n| n > MAX_TOP_LOGPROBS) {
            return Err(SettingError::new("logprobs", format!("at most {MAX_TOP_LOGPROBS} alternatives")));
        }
        Ok(())
    }
}

/// Log-probability of one token of an answer, from the model's own distribution before penalties and temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The likeliest tokens at this position, best first.
    pub top: Vec<(u32, f32)>,
}

/// The state of one answer that is being drawn.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    stream: u64,
    drawn: u64,
    /// Sorted distinct tokens of the prompt; empty if no repetition penalty asks for them.
    prompt: Vec<u32>,
    /// How often each token is in the answer; empty if no penalty asks for it.
    counts: BTreeMap<u32, u32>,
    form: Option<Follower>,
}

impl Sampler {
    /// `stream` makes prompts and samples of one prompt differ under one seed.
    pub(crate) fn new(sampling: &Sampling, prompt: &[u32], stream: u64) -> Self {
        let mut seen = Vec::new();
        if sampling.repetition_penalty != 1.0 {
            seen.extend_from_slice(prompt);
            seen.sort_unstable();
            seen.dedup();
        }
        let form = sampling.constraint.as_ref().map(Follower::new);
        Self { stream, drawn: 0, prompt: seen, counts: BTreeMap::new(), form }
    }

    /// Draws the next token from a row. A shortlist is one that serves the sampling.
    pub(crate) fn draw_row(&mut self, sampling: &Sampling, row: Row) -> (u32, Option<TokenLogprob>) {
        match row {
            Row::Whole(mut logits) => self.draw(sampling, &mut logits),
            Row::Short(short) => {
                let token = short.draw(sampling, uniform(sampling.seed, self.stream, self.drawn));
                self.drawn += 1;
                (token.unwrap_or(0), None)
            }
        }
    }

    /// Draws the next token from `logits` [vocab], which are changed on the way.
    fn draw(&mut self, sampling: &Sampling, logits: &mut [f32]) -> (u32, Option<TokenLogprob>) {
        let before = sampling.logprobs.map(|top| LogProbs::of(logits, top));
        self.penalise(sampling, logits);
        if let Some(form) = &self.form {
            form.restrict(logits);
        }
        let token = if sampling.temperature == 0.0 {
            argmax(logits)
        } else {
            let u = uniform(sampling.seed, self.stream, self.drawn);
            draw_filtered(sampling, logits, u)
        };
        self.drawn += 1;
        if let Some(form) = &self.form {
            form.advance(token);
        }
        if sampling.repetition_penalty != 1.0
            || sampling.frequency_penalty != 0.0
            || sampling.presence_penalty != 0.0
        {
            *self.counts.entry(token).or_default() += 1;
        }
        (token, before.map(|b| b.token(token)))
    }

    fn penalise(&self, sampling: &Sampling, logits: &mut [f32]) {
        let penalty = sampling.repetition_penalty;
        if penalty != 1.0 {
            let fresh = self.counts.keys().filter(|t| self.prompt.binary_search(t).is_err());
            for &token in self.prompt.iter().chain(fresh) {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
                }
            }
        }
        for (&token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit -= sampling.frequency_penalty * count as f32 + sampling.presence_penalty;
            }
        }
        for (&token, &bias) in &sampling.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
    }
}

/// Index of the largest logit, the lowest among equals; not-a-number never wins.
fn argmax(logits: &[f32]) -> u32 {
    // In lanes, which become vectors: a comparison with the best so far would wait for the one before it.
    const LANES: usize = 32;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = logits.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for logits in whole {
        best.iter_mut().zip(logits).for_each(|(best, &logit)| *best = larger(*best, logit));
    }
    let best = best.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    let is_best = |&logit: &f32| logit == best && best > f32::NEG_INFINITY;
    logits.iter().position(is_best).unwrap_or(0) as u32
}

/// Best first; the lower id first among equals.
fn by_weight(a: &(u32, f64), b: &(u32, f64)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Sorts the best `count` of `all` to its front.
fn sort_front(all: &mut [(u32, f64)], count: usize) {
    if count < all.len() && count > 0 {
        all.select_nth_unstable_by(count - 1, by_weight);
        all[..count].sort_unstable_by(by_weight);
    } else {
        all.sort_unstable_by(by_weight);
    }
}

fn draw_filtered(sampling: &Sampling, logits: &[f32], u: f64) -> u32 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = weight_of(top, sampling.temperature);
    // Weights relative to the likeliest token, whose weight is 1.
    let mut kept: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &l)| (i as u32, weight(l))).collect();
    if sampling.top_k > 0 && sampling.top_k < kept.len() {
        sort_front(&mut kept, sampling.top_k);
        kept.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        let goal = kept.iter().map(|k| k.1).sum::<f64>() * f64::from(sampling.top_p);
        // The nucleus is small as a rule: sort a front, and all only if it does not reach the goal.
        let front = kept.len().min(1024);
        sort_front(&mut kept, front);
        let end = nucleus(&kept[..front], goal).or_else(|| {
            kept.sort_unstable_by(by_weight);
            nucleus(&kept, goal)
        });
        if let Some(last) = end {
            kept.truncate(last + 1);
        }
    }
    if sampling.min_p > 0.0 {
        kept.retain(|k| k.1 >= f64::from(sampling.min_p));
    }
    // Logits may all be not-a-number.
    pick(&kept, u).unwrap_or_else(|| argmax(logits))
}

/// The weight of a logit relative to that of the likeliest, `top`.
fn weight_of(top: f32, temperature: f32) -> impl Fn(f32) -> f64 {
    let inverse = 1.0 / f64::from(temperature);
    move |logit| {
        let w = (f64::from(logit - top) * inverse).exp();
        if w.is_nan() { 0.0 } else { w }
    }
}

/// Place of the token with which the weights, best first, reach `goal`.
fn nucleus(kept: &[(u32, f64)], goal: f64) -> Option<usize> {
    let mut sum = 0.0;
    kept.iter().position(|k| {
        sum += k.1;
        sum >= goal
    })
}

/// The token at the share `u` of the weights, in their order; `None` if all weights are 0.
fn pick(kept: &[(u32, f64)], u: f64) -> Option<u32> {
    let goal = u * kept.iter().map(|k| k.1).sum::<f64>();
    let mut sum = 0.0;
    let found = kept.iter().find(|k| {
        sum += k.1;
        sum > goal
    });
    // The sum may be rounded.
    found.or_else(|| kept.iter().rev().find(|k| k.1 > 0.0)).map(|k| k.0)
}

/// The distribution at one position, kept from before the penalties.
pub(crate) struct LogProbs {
    logits: Vec<f32>,
    log_total: f64,
    top: Vec<(u32, f32)>,
}

impl LogProbs {
    pub(crate) fn of(logits: &[f32], top: usize) -> Self {
        let log_total = log_sum_exp(logits);
        let mut best: Vec<(u32, f64)> = Vec::new();
        if top > 0 {
            best = logits.iter().enumerate().map(|(i, &l)| (i as u32, f64::from(l))).collect();
            let count = top.min(best.len());
            sort_front(&mut best, count);
            best.truncate(count);
        }
        let top = best.into_iter().map(|(t, l)| (t, (l - log_total) as f32)).collect();
        Self { logits: logits.to_vec(), log_total, top }
    }

    pub(crate) fn token(self, token: u32) -> TokenLogprob {
        let logprob = (f64::from(self.logits[token as usize]) - self.log_total) as f32;
        TokenLogprob { token, logprob, top: self.top }
    }
}

/// ln(sum(e^logit)) in f64.
pub(crate) fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    top + logits.iter().map(|&l| (f64::from(l) - top).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        let mut sampler = Sampler::new(sampling, &[], 1);
        for _ in 0..20_000 {
            let (token, _) = sampler.draw(sampling, &mut logits.to_vec());
            counts[token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn close(got: &[f64], want: &[f64]) {
        for (g, w) in got.iter().zip(want) {
            assert!((g - w).abs() < 0.02, "{got:?} is not {want:?}");
        }
    }

    /// ln of these: probabilities 0.5, 0.25, 0.15, 0.1.
    fn logits() -> Vec<f32> {
        [0.15f32, 0.5, 0.1, 0.25].iter().map(|p| p.ln() + 3.0).collect()
    }

    #[test]
    fn the_first_of_the_largest_logits_is_taken() {
        for length in [1, 2, 31, 32, 33, 100] {
            for at in 0..length {
                let mut logits = vec![-2.0; length];
                logits[at..].fill(f32::NAN);
                logits[at] = 5.0;
                assert_eq!(argmax(&logits), at as u32, "{length}");
                logits[length - 1] = 5.0;
                assert_eq!(argmax(&logits), at as u32, "{length} with an equal one");
            }
        }
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), 0);
    }

    #[test]
    fn draws_follow_the_distribution_and_its_temperature() {
        close(&frequencies(&Sampling::default(), &logits()), &[0.15, 0.5, 0.1, 0.25]);
        let squares = [0.0225, 0.25, 0.01, 0.0625].map(|p| p / 0.345);
        close(&frequencies(&Sampling { temperature: 0.5, ..Sampling::default() }, &logits()), &squares);
    }

    #[test]
    fn filters_keep_what_their_definition_keeps() {
        let sampling = Sampling { top_k: 2, ..Sampling::default() };
        close(&frequencies(&sampling, &logits()), &[0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        let sampling = Sampling { top_p: 0.8, ..Sampling::default() };
        close(&frequencies(&sampling, &logits()), &[0.15 / 0.9, 0.5 / 0.9, 0.0, 0.25 / 0.9]);
        let sampling = Sampling { min_p: 0.4, ..Sampling::default() };
        close(&frequencies(&sampling, &logits()), &[0.0, 2.0 / 3.0, 0.0, 1.0 / 3.0]);
        let sampling = Sampling { top_p: 1e-6, ..Sampling::default() };
        close(&frequencies(&sampling, &logits()), &[0.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn penalties_change_the_logits_as_defined() {
        let sampling = Sampling {
            temperature: 0.0,
            repetition_penalty: 2.0,
            frequency_penalty: 0.5,
            presence_penalty: 0.25,
            logit_bias: BTreeMap::from([(3, 1.5)]),
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(&sampling, &[0, 1, 1], 0);
        sampler.counts = BTreeMap::from([(1, 2), (2, 1)]);
        let mut logits = vec![4.0, -1.0, 2.0, 0.0, 9.0];
        sampler.penalise(&sampling, &mut logits);
        assert_eq!(logits, [2.0, -2.0 - 1.25, 1.0 - 0.75, 1.5, 9.0]);
    }

    #[test]
    fn logprobs_are_of_the_untouched_distribution() {
        let sampling = Sampling { temperature: 0.0, logprobs: Some(2), ..Sampling::default() };
        let sampling = Sampling { logit_bias: BTreeMap::from([(0, 50.0)]), ..sampling };
        let (token, logprob) = Sampler::new(&sampling, &[], 0).draw(&sampling, &mut logits());
        let logprob = logprob.unwrap();
        assert_eq!((token, logprob.token), (0, 0));
        assert!((f64::from(logprob.logprob) - 0.15f64.ln()).abs() < 1e-6);
        assert_eq!(logprob.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3]);
        assert!((f64::from(logprob.top[0].1) - 0.5f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn broken_logits_still_give_a_token() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for temperature in [0.0, 1.0] {
                let sampling = Sampling { temperature, top_p: 0.9, ..Sampling::default() };
                let (token, _) = Sampler::new(&sampling, &[], 0).draw(&sampling, &mut [bad; 5]);
                assert!(token < 5);
            }
        }
    }

    #[test]
    fn settings_that_cannot_work_name_their_field() {
        let bad = |sampling: Sampling| sampling.validate().unwrap_err().key;
        assert_eq!(bad(Sampling { temperature: -1.0, ..Sampling::default() }), "temperature");
        assert_eq!(bad(Sampling { top_p: 0.0, ..Sampling::default() }), "top_p");
        assert_eq!(bad(Sampling { min_p: f32::NAN, ..Sampling::default() }), "min_p");
        assert_eq!(bad(Sampling { stop: vec![String::new()], ..Sampling::default() }), "stop");
        assert_eq!(bad(Sampling { stop: vec!["a".into(); 10_000], ..Sampling::default() }), "stop");
        assert_eq!(bad(Sampling { max_tokens: 0, ..Sampling::default() }), "max_tokens");
    }
}

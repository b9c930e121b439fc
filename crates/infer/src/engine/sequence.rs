//! One answer while it grows.

use super::JobId;
use crate::cache::PageTable;
use crate::lookup::Trust;
use crate::random::stream_of;
use crate::request::{Event, FinishReason, Request};
use crate::sampling::{Row, Sampler, TokenLogprob};
use crate::text::TextStream;
use herd_tokenizer::Tokenizer;
use std::sync::Arc;

/// One answer that is being computed, or the prompt that several answers will share.
pub(super) struct Sequence {
    pub job: JobId,
    pub request: Arc<Request>,
    pub sample: usize,
    /// Prompt and answer. All but the last one are in the cache when the next token is due.
    pub tokens: Vec<u32>,
    /// Length at which the answer ends.
    pub limit: usize,
    pub table: PageTable,
    /// Further samples that begin when the prompt is computed.
    pub others: usize,
    /// Tokens of the prompt that were found in the cache.
    pub cached: usize,
    sampler: Sampler,
    text: TextStream,
    pub trust: Trust,
    /// Tokens after the last one that are computed on trial in this step.
    pub guess: Vec<u32>,
}

/// What ends an answer, and what its tokens say.
pub(super) struct Words<'a> {
    pub tokenizer: &'a Tokenizer,
    pub end_tokens: &'a [u32],
}

impl Sequence {
    /// The first sample of a request, to which `table` gives pages.
    pub(super) fn new(job: JobId, request: Arc<Request>, limit: usize, table: PageTable) -> Self {
        Self {
            job,
            sample: 0,
            tokens: request.prompt.clone(),
            limit,
            cached: table.length,
            table,
            others: request.samples - 1,
            sampler: Sampler::new(&request.sampling, &request.prompt, stream_of(&request.prompt)),
            text: TextStream::new(&request.sampling.stop),
            trust: Trust::default(),
            guess: Vec::new(),
            request,
        }
    }

    /// Sample number `sample` of a prompt that has just been computed.
    pub(super) fn fork(&self, sample: usize, table: PageTable) -> Self {
        // The golden ratio spreads the samples' streams over the numbers.
        let stream =
            stream_of(&self.tokens).wrapping_add((sample as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        Self {
            job: self.job,
            request: self.request.clone(),
            sample,
            tokens: self.tokens.clone(),
            limit: self.limit,
            table,
            others: 0,
            cached: self.cached,
            sampler: Sampler::new(&self.request.sampling, &self.tokens, stream),
            text: TextStream::new(&self.request.sampling.stop),
            trust: Trust::default(),
            guess: Vec::new(),
        }
    }

    /// The older of two has the smaller one.
    pub(super) fn age(&self) -> (JobId, usize) {
        (self.job, self.sample)
    }

    /// Tokens to compute before the next one can be drawn.
    pub(super) fn due(&self) -> usize {
        self.tokens.len() - self.table.length
    }

    /// Whether no token has been drawn yet.
    pub(super) fn unanswered(&self) -> bool {
        self.tokens.len() == self.request.prompt.len()
    }

    /// Draws from the first row, and from the next ones as long as the tokens are the guessed ones.
    pub(super) fn draw(&mut self, rows: Vec<Row>) -> Vec<(u32, Option<TokenLogprob>)> {
        let mut drawn = Vec::with_capacity(rows.len());
        for (i, row) in rows.into_iter().enumerate() {
            let (token, logprob) = self.sampler.draw_row(&self.request.sampling, row);
            drawn.push((token, logprob));
            if self.guess.get(i) != Some(&token) {
                break;
            }
        }
        drawn
    }

    /// Takes a drawn token; true if the answer is complete.
    pub(super) fn take(
        &mut self,
        (token, logprob): (u32, Option<TokenLogprob>),
        words: &Words<'_>,
        events: &mut Vec<(JobId, Event)>,
    ) -> bool {
        let (job, sample) = (self.job, self.sample);
        let sampling = &self.request.sampling;
        let ends = sampling.stop_tokens.contains(&token)
            || !sampling.ignore_end && words.end_tokens.contains(&token);
        if ends {
            let text = self.text.finish();
            events.push((job, Event::Finished { sample, text, reason: FinishReason::Stop }));
            return true;
        }
        self.tokens.push(token);
        // A special token has a meaning but no text.
        let special = words.tokenizer.is_special(token);
        let bytes = if special { &[] } else { words.tokenizer.token_bytes(token) };
        let released = self.text.push(bytes);
        events.push((job, Event::Token { sample, token, text: released.text, logprob }));
        if released.stopped {
            let reason = FinishReason::Stop;
            events.push((job, Event::Finished { sample, text: String::new(), reason }));
            return true;
        }
        if self.tokens.len() >= self.limit {
            let text = self.text.finish();
            events.push((job, Event::Finished { sample, text, reason: FinishReason::Length }));
            return true;
        }
        false
    }
}

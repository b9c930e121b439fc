//! Continuous batching: every step computes one batch of rows, made of the next token of every running answer and of
//! as much of the waiting prompts as fits beside them.

use crate::cache::{KvCache, PAGE, PageTable, Reservation};
use crate::forward::{Span, forward};
use crate::lookup::{CHEAP_ROWS, Trust};
use crate::random::stream_of;
use crate::sampling::{Sampler, Sampling, TokenLogprob};
use crate::team::Team;
use crate::text::TextStream;
use crate::weights::Weights;
use crate::{Error, Settings};
use herd_tokenizer::Tokenizer;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model ended it, or a stop string or stop token was met.
    Stop,
    /// `max_tokens` or the context was reached.
    Length,
    /// Nobody wants it any more.
    Cancelled,
}

/// A prompt and what to make of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tokens of the prompt, with its beginning-of-text token if the model wants one.
    pub prompt: Vec<u32>,
    /// Answers to draw; they share the pages of the prompt.
    pub samples: usize,
    /// How to draw them.
    pub sampling: Sampling,
}

/// News of one request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is computed; so many of its tokens were found in the cache.
    Started {
        /// Tokens of the prompt that were not computed again.
        cached_tokens: usize,
    },
    /// An answer grew by one token.
    Token {
        /// Which answer, from 0.
        sample: usize,
        /// The token.
        token: u32,
        /// Text that may be shown now; empty while a character or a possible stop string is incomplete.
        text: String,
        /// Present if the sampling asks for it.
        logprob: Option<TokenLogprob>,
    },
    /// An answer is complete.
    Finished {
        /// Which answer, from 0.
        sample: usize,
        /// Text that was held back until now.
        text: String,
        /// Why it ended.
        reason: FinishReason,
    },
}

/// Number of a request in its engine.
pub(crate) type JobId = u64;

/// A request whose turn has not come.
struct Waiting {
    job: JobId,
    request: Arc<Request>,
}

/// One answer that is being computed, or the prompt that several answers will share.
struct Running {
    job: JobId,
    request: Arc<Request>,
    sample: usize,
    /// Prompt and answer. All but the last one are in the cache once the prompt is computed.
    tokens: Vec<u32>,
    /// Length at which the answer ends.
    limit: usize,
    table: PageTable,
    reservation: Reservation,
    /// Promises for the other samples, until the prompt is computed.
    others: Vec<Reservation>,
    cached: usize,
    sampler: Sampler,
    text: TextStream,
    trust: Trust,
    /// Tokens after the last one that are computed on trial in this step.
    guess: Vec<u32>,
}

/// What the engine is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests whose turn has not come.
    pub waiting: usize,
    /// Answers in the batch.
    pub running: usize,
    /// Pages that they refer to.
    pub pages_used: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// Prompt tokens computed since the start.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the cache since the start.
    pub cached_tokens: u64,
    /// Answer tokens drawn since the start.
    pub answer_tokens: u64,
    /// Those of them that were guessed from the text before, and so cost no step of their own.
    pub guessed_tokens: u64,
}

/// The scheduler; it does nothing by itself, [`Engine::step`] moves it.
pub(crate) struct Engine {
    weights: Arc<Weights>,
    team: Team,
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
    settings: Settings,
    cache: KvCache,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    next_job: JobId,
    load: Load,
}

impl Engine {
    pub(crate) fn new(
        weights: Arc<Weights>,
        tokenizer: Tokenizer,
        end_tokens: Vec<u32>,
        settings: Settings,
    ) -> Self {
        let shape = weights.cache_shape(settings.cache_type);
        let cache = KvCache::new(shape, settings.cache_tokens.div_ceil(PAGE));
        Self {
            weights,
            team: Team::of_pool(),
            tokenizer,
            end_tokens,
            settings,
            cache,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next_job: 0,
            load: Load::default(),
        }
    }

    /// Queues a request that can be answered at all.
    pub(crate) fn submit(&mut self, request: Request) -> Result<JobId, Error> {
        self.check(&request)?;
        self.next_job += 1;
        self.waiting.push_back(Waiting { job: self.next_job, request: Arc::new(request) });
        Ok(self.next_job)
    }

    /// Whether a request can be answered when nothing else runs.
    pub(crate) fn check(&self, request: &Request) -> Result<(), Error> {
        request.sampling.validate()?;
        let vocab = self.weights.sizes.vocab;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&token) = request.prompt.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::UnknownToken { token, vocab });
        }
        let context = self.weights.sizes.context;
        if request.prompt.len() >= context {
            return Err(Error::ContextOverflow { prompt: request.prompt.len(), context });
        }
        let (first, other) = self.pages_needed(request);
        let needed = first + other * request.samples.saturating_sub(1);
        if request.samples == 0 || request.samples > self.settings.max_sequences {
            return Err(Error::Samples { samples: request.samples, most: self.settings.max_sequences });
        }
        if needed > self.cache.capacity() {
            return Err(Error::DoesNotFit { needed: needed * PAGE, cache: self.cache.capacity() * PAGE });
        }
        Ok(())
    }

    fn limit(&self, request: &Request) -> usize {
        request.prompt.len().saturating_add(request.sampling.max_tokens).min(self.weights.sizes.context)
    }

    /// Most pages of the first and of each further sample.
    fn pages_needed(&self, request: &Request) -> (usize, usize) {
        let all = self.limit(request).div_ceil(PAGE);
        (all, all - request.prompt.len() / PAGE)
    }

    /// Whether there is nothing to do.
    pub(crate) fn idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            waiting: self.waiting.len(),
            running: self.running.len(),
            pages_used: self.cache.used(),
            pages: self.cache.capacity(),
            ..self.load
        }
    }

    /// Ends a request wherever it stands; its pages come back at once.
    pub(crate) fn cancel(&mut self, job: JobId) {
        self.waiting.retain(|w| w.job != job);
        for index in (0..self.running.len()).rev() {
            if self.running[index].job == job {
                let running = self.running.remove(index);
                self.release(running);
            }
        }
    }

    fn release(&mut self, running: Running) {
        for other in running.others {
            self.cache.release(PageTable::default(), other);
        }
        self.cache.release(running.table, running.reservation);
    }

    /// First come, first served: the first that does not fit waits, and all behind it.
    fn admit(&mut self) {
        while let Some(Waiting { request, .. }) = self.waiting.front() {
            let promised: usize = self.running.iter().map(|r| 1 + r.others.len()).sum();
            if promised + request.samples > self.settings.max_sequences {
                return;
            }
            let (first, other) = self.pages_needed(request);
            let Some((table, reservation)) = self.cache.admit(&request.prompt, first) else { return };
            let mut others = Vec::new();
            while others.len() + 1 < request.samples {
                match self.cache.reserve(other) {
                    Some(more) => others.push(more),
                    None => {
                        self.cache.release(table, reservation);
                        others.into_iter().for_each(|o| self.cache.release(PageTable::default(), o));
                        return;
                    }
                }
            }
            let Some(Waiting { job, request }) = self.waiting.pop_front() else { return };
            self.load.cached_tokens += table.length as u64;
            self.load.prompt_tokens += (request.prompt.len() - table.length) as u64;
            let stream = stream_of(&request.prompt);
            self.running.push(Running {
                job,
                sample: 0,
                tokens: request.prompt.clone(),
                limit: self.limit(&request),
                cached: table.length,
                table,
                reservation,
                others,
                sampler: Sampler::new(&request.sampling, &request.prompt, stream),
                text: TextStream::new(&request.sampling.stop),
                trust: Trust::default(),
                guess: Vec::new(),
                request,
            });
        }
    }

    /// Computes one batch and returns the news.
    pub(crate) fn step(&mut self) -> Vec<(JobId, Event)> {
        self.admit();
        // Answers take one row each; prompts share the rest of the batch in order of arrival.
        let mut rows: Vec<usize> =
            self.running.iter().map(|r| usize::from(r.tokens.len() - r.table.length == 1)).collect();
        self.make_guesses(&mut rows);
        let mut rest = self.settings.batch_tokens.saturating_sub(rows.iter().sum()).max(1);
        for (rows, running) in rows.iter_mut().zip(&self.running) {
            if *rows == 0 {
                *rows = rest.min(running.tokens.len() - running.table.length);
                rest -= *rows;
            }
        }
        let (mut tokens, mut wanted, mut answering) = (Vec::new(), Vec::new(), Vec::new());
        let mut starts = Vec::new();
        for (index, (running, &rows)) in self.running.iter_mut().zip(&rows).enumerate() {
            let start = running.table.length;
            self.cache.grow(&mut running.table, start + rows, &mut running.reservation);
            starts.push(tokens.len());
            let known = rows - running.guess.len();
            tokens.extend_from_slice(&running.tokens[start..start + known]);
            tokens.extend_from_slice(&running.guess);
            if rows > 0 && start + known == running.tokens.len() {
                wanted.extend(tokens.len() - 1 - running.guess.len()..tokens.len());
                answering.push(index);
            }
        }
        if tokens.is_empty() {
            return Vec::new();
        }
        let spans: Vec<Span<'_>> = (self.running.iter().zip(&rows).zip(&starts))
            .filter(|((_, rows), _)| **rows > 0)
            .map(|((running, rows), &at)| Span {
                rows: at..at + rows,
                start: running.table.length,
                pages: &running.table.pages,
            })
            .collect();
        let logits = forward(&self.weights, &self.team, &mut self.cache, &tokens, &spans, &wanted);
        for (running, &rows) in self.running.iter_mut().zip(&rows) {
            let length = running.table.length + rows - running.guess.len();
            self.cache.advance(&mut running.table, &running.tokens[..length]);
        }
        self.draw(&answering, logits)
    }

    /// Guesses further tokens of answers while the rows are few enough to cost little.
    fn make_guesses(&mut self, rows: &mut [usize]) {
        let mut cheap = CHEAP_ROWS.saturating_sub(rows.iter().sum()).min(self.settings.lookup_tokens);
        for (rows, running) in rows.iter_mut().zip(&mut self.running) {
            let sampling = &running.request.sampling;
            // A form wants to see each token before the next is drawn.
            if *rows == 1 && running.others.is_empty() && sampling.constraint.is_none() {
                // The token after the guess must still fit.
                let most = cheap.min((running.limit - running.tokens.len()).saturating_sub(1));
                let ends = |t: u32| self.end_tokens.contains(&t) || sampling.stop_tokens.contains(&t);
                running.guess = running.trust.guess(&running.tokens, most, ends);
                *rows += running.guess.len();
                cheap -= running.guess.len();
            }
        }
    }

    /// Draws the next token of each answer, and those after it as long as they were guessed. `logits` has rows of
    /// [vocab]: for each answer one, and one for each token of its guess.
    fn draw(&mut self, answering: &[usize], logits: Vec<f32>) -> Vec<(JobId, Event)> {
        let vocab = self.weights.sizes.vocab;
        let mut events = Vec::new();
        let mut drawing: Vec<(usize, Vec<Vec<f32>>)> = Vec::new();
        let mut logits = logits.chunks_exact(vocab).map(<[f32]>::to_vec);
        for &index in answering {
            let own: Vec<Vec<f32>> = logits.by_ref().take(1 + self.running[index].guess.len()).collect();
            if self.running[index].tokens.len() == self.running[index].request.prompt.len() {
                let cached_tokens = self.running[index].cached;
                events.push((self.running[index].job, Event::Started { cached_tokens }));
                for forked in self.fork(index) {
                    drawing.push((forked, own[..1].to_vec()));
                }
            }
            drawing.push((index, own));
        }
        drawing.sort_unstable_by_key(|d| d.0);
        let mut drawn = Vec::with_capacity(drawing.len());
        {
            let mut due = drawing.into_iter().peekable();
            let pairs: Vec<(usize, &mut Running, Vec<Vec<f32>>)> = (self.running.iter_mut().enumerate())
                .filter_map(|(index, running)| {
                    let (_, logits) = due.next_if(|d| d.0 == index)?;
                    Some((index, running, logits))
                })
                .collect();
            pairs
                .into_par_iter()
                .map(|(index, running, logits)| (index, running.draw_guessed(logits)))
                .collect_into_vec(&mut drawn);
        }
        let mut done = Vec::new();
        for (index, tokens) in drawn {
            let running = &mut self.running[index];
            let (guessed, right) = (std::mem::take(&mut running.guess).len(), tokens.len() - 1);
            let mut ended = false;
            for (token, logprob) in tokens {
                self.load.answer_tokens += 1;
                if running.take(token, logprob, &self.end_tokens, &self.tokenizer, &mut events) {
                    ended = true;
                    break;
                }
            }
            if ended {
                done.push(index);
            } else {
                self.load.guessed_tokens += right as u64;
                running.trust.learn(guessed, right, running.tokens.len());
                let computed = running.tokens.len() - 1;
                self.cache.advance(&mut running.table, &running.tokens[..computed]);
            }
        }
        for index in done.into_iter().rev() {
            let running = self.running.remove(index);
            self.release(running);
        }
        events
    }

    /// The prompt at `index` is computed: makes its other samples and returns where they are.
    fn fork(&mut self, index: usize) -> std::ops::Range<usize> {
        let first = self.running.len();
        for (i, mut reservation) in std::mem::take(&mut self.running[index].others).into_iter().enumerate() {
            let prompt = &self.running[index];
            let sample = i + 1;
            // The golden ratio spreads the samples' streams over the numbers.
            let stream =
                stream_of(&prompt.tokens).wrapping_add((sample as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let table = self.cache.fork(&prompt.table, &mut reservation);
            let fork = Running {
                job: prompt.job,
                request: prompt.request.clone(),
                sample,
                tokens: prompt.tokens.clone(),
                limit: prompt.limit,
                table,
                reservation,
                others: Vec::new(),
                cached: prompt.cached,
                sampler: Sampler::new(&prompt.request.sampling, &prompt.tokens, stream),
                text: TextStream::new(&prompt.request.sampling.stop),
                trust: Trust::default(),
                guess: Vec::new(),
            };
            self.running.push(fork);
        }
        first..self.running.len()
    }
}

impl Running {
    /// Draws from the first logits, and from the next ones as long as the tokens are the guessed ones.
    fn draw_guessed(&mut self, logits: Vec<Vec<f32>>) -> Vec<(u32, Option<TokenLogprob>)> {
        let mut drawn = Vec::with_capacity(logits.len());
        for (i, mut logits) in logits.into_iter().enumerate() {
            let (token, logprob) = self.sampler.draw(&self.request.sampling, &mut logits);
            drawn.push((token, logprob));
            if self.guess.get(i) != Some(&token) {
                break;
            }
        }
        drawn
    }

    /// Takes a drawn token; true if the answer is complete.
    fn take(
        &mut self,
        token: u32,
        logprob: Option<TokenLogprob>,
        end_tokens: &[u32],
        tokenizer: &Tokenizer,
        events: &mut Vec<(JobId, Event)>,
    ) -> bool {
        let (job, sample) = (self.job, self.sample);
        let sampling = &self.request.sampling;
        let ends =
            sampling.stop_tokens.contains(&token) || !sampling.ignore_end && end_tokens.contains(&token);
        if ends {
            let text = self.text.finish();
            events.push((job, Event::Finished { sample, text, reason: FinishReason::Stop }));
            return true;
        }
        self.tokens.push(token);
        // A special token has a meaning but no text.
        let bytes = if tokenizer.is_special(token) { &[] } else { tokenizer.token_bytes(token) };
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

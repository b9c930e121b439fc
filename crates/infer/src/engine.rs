//! Continuous batching: every step computes one batch of rows, made of the next token of every running answer and of
//! as much of the waiting prompts as fits beside them.

mod schedule;
mod sequence;

use crate::cache::{KvCache, PAGE};
use crate::forward::{Input, Span};
use crate::model::Model;
use crate::request::{Event, Load, Request};
use crate::sampling::Row;
use crate::team::Team;
use crate::{Error, Settings};
use herd_run::SettingError;
use herd_tokenizer::Tokenizer;
use rayon::prelude::*;
use sequence::{Sequence, Words};
use std::collections::VecDeque;
use std::sync::Arc;

/// Number of a request in its engine; the older of two has the smaller one.
pub(crate) type JobId = u64;

/// A request whose turn has not come.
struct Waiting {
    job: JobId,
    request: Arc<Request>,
}

/// The scheduler; it does nothing by itself, [`Engine::step`] moves it.
pub(crate) struct Engine {
    model: Model,
    team: Team,
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
    settings: Settings,
    cache: KvCache,
    waiting: VecDeque<Waiting>,
    /// Answers without pages, the oldest first; older than all that wait.
    paused: VecDeque<Sequence>,
    /// The oldest first when a step begins.
    running: Vec<Sequence>,
    next_job: JobId,
    load: Load,
}

impl Engine {
    pub(crate) fn new(model: Model, tokenizer: Tokenizer, end_tokens: Vec<u32>, settings: Settings) -> Self {
        let cache = model.cache(settings.cache_tokens.div_ceil(PAGE));
        Self {
            model,
            team: Team::of_pool(),
            tokenizer,
            end_tokens,
            settings,
            cache,
            waiting: VecDeque::new(),
            paused: VecDeque::new(),
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
        let vocab = self.model.sizes().vocab;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(&token) = request.prompt.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::UnknownToken { token, vocab });
        }
        if let Some(token) = request.sampling.logit_bias.keys().find(|&&t| t as usize >= vocab) {
            let problem = format!("there is no such token; the vocabulary has {vocab}");
            return Err(SettingError::new(format!("logit_bias.{token}"), problem).into());
        }
        let context = self.model.sizes().context;
        if request.prompt.len() >= context {
            return Err(Error::ContextOverflow { prompt: request.prompt.len(), context });
        }
        if request.samples == 0 || request.samples > self.settings.max_sequences {
            return Err(Error::Samples { samples: request.samples, most: self.settings.max_sequences });
        }
        // Samples that do not fit beside each other take turns.
        let needed = self.limit(request).div_ceil(PAGE);
        if needed > self.cache.capacity() {
            return Err(Error::DoesNotFit { needed: needed * PAGE, cache: self.cache.capacity() * PAGE });
        }
        Ok(())
    }

    fn limit(&self, request: &Request) -> usize {
        request.prompt.len().saturating_add(request.sampling.max_tokens).min(self.model.sizes().context)
    }

    /// Whether there is nothing to do.
    pub(crate) fn idle(&self) -> bool {
        self.waiting.is_empty() && self.paused.is_empty() && self.running.is_empty()
    }

    /// Does a little of what makes later answers faster; whether more is left.
    pub(crate) fn prepare(&self) -> bool {
        self.model.prepare(&self.team)
    }

    pub(crate) fn load(&self) -> Load {
        Load {
            waiting: self.waiting.len(),
            running: self.running.len(),
            paused: self.paused.len(),
            pages_used: self.cache.used(),
            pages: self.cache.capacity(),
            ..self.load
        }
    }

    /// Ends a request wherever it stands; its pages come back at once.
    pub(crate) fn cancel(&mut self, job: JobId) {
        self.waiting.retain(|w| w.job != job);
        self.paused.retain(|p| p.job != job);
        for index in (0..self.running.len()).rev() {
            if self.running[index].job == job {
                let sequence = self.running.remove(index);
                self.cache.release(sequence.table);
            }
        }
    }

    /// Computes one batch and returns the news.
    ///
    /// # Errors
    /// A card that fails; nothing can be computed any more then.
    pub(crate) fn step(&mut self) -> Result<Vec<(JobId, Event)>, Error> {
        self.admit();
        let rows = self.plan();
        let (mut tokens, mut wanted, mut answering) = (Vec::new(), Vec::new(), Vec::new());
        let (mut spans, mut samplings) = (Vec::new(), Vec::new());
        for (index, (sequence, &rows)) in self.running.iter().zip(&rows).enumerate() {
            if rows == 0 {
                continue;
            }
            let (start, at) = (sequence.table.length, tokens.len());
            let known = rows - sequence.guess.len();
            tokens.extend_from_slice(&sequence.tokens[start..start + known]);
            tokens.extend_from_slice(&sequence.guess);
            if start + known == sequence.tokens.len() {
                wanted.extend(tokens.len() - 1 - sequence.guess.len()..tokens.len());
                samplings.resize(wanted.len(), &sequence.request.sampling);
                answering.push(index);
            }
            spans.push(Span { rows: at..tokens.len(), start, pages: &sequence.table.pages });
        }
        if tokens.is_empty() {
            return Ok(Vec::new());
        }
        let input = Input { tokens: &tokens, spans: &spans, wanted: &wanted };
        let drawn_from = self.model.rows(&self.team, &mut self.cache, input, &samplings)?;
        for (sequence, &rows) in self.running.iter_mut().zip(&rows) {
            let length = sequence.table.length + rows - sequence.guess.len();
            self.cache.advance(&mut sequence.table, &sequence.tokens[..length]);
        }
        Ok(self.draw(&answering, drawn_from))
    }

    /// Draws the next token of each answer, and those after it as long as they were guessed. There is a row for each answer,
    /// and one for each token of its guess.
    fn draw(&mut self, answering: &[usize], rows: Vec<Row>) -> Vec<(JobId, Event)> {
        let mut events = Vec::new();
        let mut rows = rows.into_iter();
        let mut drawing = vec![None; self.running.len()];
        for &index in answering {
            let sequence = &self.running[index];
            let own: Vec<Row> = rows.by_ref().take(1 + sequence.guess.len()).collect();
            if sequence.unanswered() {
                events.push((sequence.job, Event::Started { cached_tokens: sequence.cached }));
                let others = self.fork(index);
                drawing.resize(drawing.len() + others, Some(own.clone()));
            }
            drawing[index] = Some(own);
        }
        let mut drawn = Vec::with_capacity(drawing.len());
        let draw = |(sequence, rows): (&mut Sequence, Option<Vec<Row>>)| {
            rows.map_or_else(Vec::new, |rows| sequence.draw(rows))
        };
        if drawing.len() == 1 {
            // Waking other threads takes longer.
            drawn.extend(self.running.iter_mut().zip(drawing).map(draw));
        } else {
            self.running.par_iter_mut().zip(drawing).map(draw).collect_into_vec(&mut drawn);
        }
        let mut going = Vec::with_capacity(drawn.len());
        for (mut sequence, tokens) in std::mem::take(&mut self.running).into_iter().zip(drawn) {
            let (guessed, right) =
                (std::mem::take(&mut sequence.guess).len(), tokens.len().saturating_sub(1));
            let any = !tokens.is_empty();
            let words = Words { tokenizer: &self.tokenizer, end_tokens: &self.end_tokens };
            let ended = tokens.into_iter().any(|token| {
                self.load.answer_tokens += 1;
                sequence.take(token, &words, &mut events)
            });
            if ended {
                self.cache.release(sequence.table);
                continue;
            }
            if any {
                self.load.guessed_tokens += right as u64;
                sequence.trust.learn(guessed, right, sequence.tokens.len());
            }
            if sequence.table.pages.is_empty() {
                self.pause(sequence);
                continue;
            }
            if any {
                let computed = sequence.tokens.len() - 1;
                self.cache.advance(&mut sequence.table, &sequence.tokens[..computed]);
            }
            going.push(sequence);
        }
        self.running = going;
        events
    }

    /// The prompt at `index` is computed: adds its other samples to the batch and returns how many there are. One
    /// that finds no page draws its first token all the same, and then waits.
    fn fork(&mut self, index: usize) -> usize {
        let others = std::mem::take(&mut self.running[index].others);
        for sample in 1..=others {
            let prompt = &self.running[index];
            let table = self.cache.fork(&prompt.table).unwrap_or_default();
            let fork = prompt.fork(sample, table);
            self.running.push(fork);
        }
        others
    }
}

//! A model ready to answer.

use crate::cache::{PAGE, PageTable};
use crate::card::e4m3_products;
use crate::constraint::{Compiler, Constraint, Grammar};
use crate::engine::Engine;
use crate::forward::{Input, Span};
use crate::model::Model;
use crate::request::{Event, FinishReason, Request};
use crate::sampling::{LogProbs, Sampling, TokenLogprob, log_sum_exp};
use crate::team::Team;
use crate::weights::Weights;
use crate::{ActivationType, Error, Settings, gguf};
use herd_model::{Llama, LlamaConfig};
use herd_run::Stop;
use herd_tensor::Params;
use herd_tensor::cuda::{Card, CardUsage};
use herd_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// One answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Tokens of the answer; the end token is not among them, the token that completed a stop string is.
    pub tokens: Vec<u32>,
    /// The answer's text, up to a stop string.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// One entry per token if [`Sampling::logprobs`] asks for it.
    pub logprobs: Vec<TokenLogprob>,
}

/// A model, its tokenizer and its limits. Cheap to clone; the weights are shared.
#[derive(Clone)]
pub struct Generator {
    pub(crate) model: Model,
    config: Arc<LlamaConfig>,
    tokenizer: Tokenizer,
    pub(crate) settings: Settings,
    end_tokens: Vec<u32>,
    compiler: Arc<Compiler>,
}

impl Generator {
    /// A generator over weights in memory. An answer ends at the configuration's end tokens and at
    /// `<|end_of_text|>`, `<|eot_id|>` and `<|eom_id|>`.
    pub fn new(
        llama: Llama,
        params: Params,
        tokenizer: Tokenizer,
        settings: Settings,
    ) -> Result<Self, Error> {
        let card = settings.device.open()?;
        let weights = Weights::of(&llama, params);
        Self::of(llama.config, weights, tokenizer, settings, card)
    }

    /// As [`Generator::new`], on a card that is open already, whatever [`Settings::device`] says.
    pub fn on_card(
        card: &Card,
        llama: Llama,
        params: Params,
        tokenizer: Tokenizer,
        settings: Settings,
    ) -> Result<Self, Error> {
        let weights = Weights::of(&llama, params);
        Self::of(llama.config, weights, tokenizer, settings, Some(card.clone()))
    }

    fn of(
        config: LlamaConfig,
        mut weights: Weights,
        tokenizer: Tokenizer,
        settings: Settings,
        card: Option<Card>,
    ) -> Result<Self, Error> {
        settings.validate()?;
        weights.exact = settings.activations == ActivationType::F32;
        let specials = tokenizer.specials();
        let mut end_tokens = config.eos_token_ids.clone();
        end_tokens.extend([specials.end_of_text, specials.eot, specials.eom]);
        end_tokens.retain(|&token| (token as usize) < config.vocab_size);
        end_tokens.sort_unstable();
        end_tokens.dedup();
        let (model, settings) = Model::new(weights, card, settings)?;
        Ok(Self {
            model,
            config: Arc::new(config),
            compiler: Arc::new(Compiler::new(tokenizer.clone(), end_tokens.clone())),
            tokenizer,
            settings,
            end_tokens,
        })
    }

    /// Opens a model folder (`config.json`, `model.safetensors` and `tokenizer.json`), or a GGUF file.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, Error> {
        // What is missing for a card is told before gigabytes are read.
        let card = settings.device.open()?;
        Self::open_with(path, settings, card)
    }

    /// As [`Generator::open`], on a card that is open already, whatever [`Settings::device`] says.
    pub fn open_on_card(card: &Card, path: &Path, settings: Settings) -> Result<Self, Error> {
        Self::open_with(path, settings, Some(card.clone()))
    }

    fn open_with(path: &Path, settings: Settings, card: Option<Card>) -> Result<Self, Error> {
        e4m3_products(card.as_ref(), &settings)?;
        if gguf::is_gguf(path) || path.extension().is_some_and(|e| e == "gguf") {
            let (config, weights, tokenizer) = gguf::open(path)?;
            return Self::of(config, weights, tokenizer, settings, card);
        }
        let folder = path;
        let tokenizer = Tokenizer::load(folder)?;
        let (config, weights) = crate::folder::open(folder)?;
        Self::of(config, weights, tokenizer, settings, card)
    }

    /// The model's configuration.
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The limits, with what was left to the device filled in.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Longest prompt and answer together, tokens.
    pub fn context(&self) -> usize {
        self.model.sizes().context
    }

    /// Compiles a form for [`Sampling::constraint`]. Takes milliseconds as a rule, and a fraction of a second the
    /// first time.
    ///
    /// # Errors
    /// [`Error::Grammar`] says what cannot be compiled.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        self.compiler.compile(grammar)
    }

    /// Memory of the cache when it is full, bytes.
    pub fn cache_bytes(&self) -> usize {
        self.model.cache_bytes(self.settings.cache_tokens)
    }

    /// What is used of the card's memory, if the model is on one.
    pub fn card_usage(&self) -> Option<CardUsage> {
        match &self.model {
            Model::Host(..) => None,
            Model::Card(model) => Some(model.usage()),
        }
    }

    /// Decoding steps that are kept as CUDA graphs, one for each number of rows.
    pub fn graphs(&self) -> usize {
        match &self.model {
            Model::Host(..) => 0,
            Model::Card(model) => model.graphs(),
        }
    }

    /// The card and what it holds, if the model is on one.
    pub fn device(&self) -> Option<String> {
        let card = self.model.describe()?;
        let tokens = self.settings.cache_tokens;
        Some(format!("{card}; cache of {tokens} tokens, {:.1} GB", self.cache_bytes() as f64 / 1e9))
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::new(
            self.model.clone(),
            self.tokenizer.clone(),
            self.end_tokens.clone(),
            self.settings.clone(),
        )
    }

    /// Draws `n_samples` answers to every prompt: `result[prompt][sample]`. The samples of a prompt share its pages.
    /// Two prompts with the same tokens get the same answers; give them different seeds if they must differ.
    ///
    /// # Errors
    /// The first request that can never be answered (context, vocabulary, cache size), before anything is computed.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        n_samples: usize,
        sampling: &Sampling,
    ) -> Result<Vec<Vec<Completion>>, Error> {
        self.generate_with(prompts, n_samples, sampling, &Stop::default(), |_| {})
    }

    /// As [`Generator::generate`], but can be stopped between two tokens, and calls `each` with the number of every
    /// prompt whose answers are complete, in order of completion.
    pub fn generate_with(
        &self,
        prompts: &[Vec<u32>],
        n_samples: usize,
        sampling: &Sampling,
        stop: &Stop,
        mut each: impl FnMut(usize),
    ) -> Result<Vec<Vec<Completion>>, Error> {
        let mut engine = self.engine();
        let mut jobs = std::collections::HashMap::new();
        for (index, prompt) in prompts.iter().enumerate() {
            let request = Request { prompt: prompt.clone(), samples: n_samples, sampling: sampling.clone() };
            jobs.insert(engine.submit(request)?, index);
        }
        let empty = Completion {
            tokens: Vec::new(),
            text: String::new(),
            finish_reason: FinishReason::Cancelled,
            logprobs: Vec::new(),
        };
        let mut answers = vec![vec![empty; n_samples]; prompts.len()];
        let mut open = vec![n_samples; prompts.len()];
        while !engine.idle() {
            stop.check()?;
            for (job, event) in engine.step()? {
                let index = jobs[&job];
                match event {
                    Event::Started { .. } => {}
                    Event::Token { sample, token, text, logprob } => {
                        let answer = &mut answers[index][sample];
                        answer.tokens.push(token);
                        answer.text.push_str(&text);
                        answer.logprobs.extend(logprob);
                    }
                    Event::Finished { sample, text, reason } => {
                        let answer = &mut answers[index][sample];
                        answer.text.push_str(&text);
                        answer.finish_reason = reason;
                        open[index] -= 1;
                        if open[index] == 0 {
                            each(index);
                        }
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Logits [tokens, vocab] after every token of a sequence, row-major.
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let mut all = Vec::new();
        self.walk(tokens, |_, logits| all.extend_from_slice(logits))?;
        Ok(all)
    }

    /// Calls `row` with each position of a sequence and the logits [vocab] after it, in order.
    pub fn each_logits(&self, tokens: &[u32], row: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        self.walk(tokens, row)
    }

    /// Log-probability of each token given those before it: entry i is that of `tokens[i + 1]`.
    pub fn score(&self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let mut scores = Vec::new();
        self.walk(tokens, |position, logits| {
            if let Some(&next) = tokens.get(position + 1) {
                scores.push((f64::from(logits[next as usize]) - log_sum_exp(logits)) as f32);
            }
        })?;
        Ok(scores)
    }

    /// As [`Generator::score`], with the `top` likeliest tokens at each position.
    pub fn score_with_top(&self, tokens: &[u32], top: usize) -> Result<Vec<TokenLogprob>, Error> {
        let mut scores = Vec::new();
        self.walk(tokens, |position, logits| {
            if let Some(&next) = tokens.get(position + 1) {
                scores.push(LogProbs::of(logits, top).token(next));
            }
        })?;
        Ok(scores)
    }

    /// Computes a sequence in batches of `batch_tokens` and gives the logits of every position.
    fn walk(&self, tokens: &[u32], mut row: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        let sizes = self.model.sizes();
        if tokens.len() > sizes.context {
            return Err(Error::ContextOverflow { prompt: tokens.len(), context: sizes.context });
        }
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= sizes.vocab) {
            return Err(Error::UnknownToken { token, vocab: sizes.vocab });
        }
        let team = Team::of_pool();
        let pages = tokens.len().div_ceil(PAGE);
        let (mut cache, mut table) = (self.model.cache(pages), PageTable::default());
        for chunk in tokens.chunks(self.settings.batch_tokens) {
            let start = table.length;
            if !cache.grow(&mut table, start + chunk.len()) {
                return Err(Error::DoesNotFit { needed: tokens.len(), cache: pages * PAGE });
            }
            let spans = [Span { rows: 0..chunk.len(), start, pages: &table.pages }];
            let wanted: Vec<usize> = (0..chunk.len()).collect();
            let logits = self.model.forward(
                &team,
                &mut cache,
                Input { tokens: chunk, spans: &spans, wanted: &wanted },
            )?;
            for (i, logits) in logits.chunks_exact(sizes.vocab).enumerate() {
                row(start + i, logits);
            }
            cache.advance(&mut table, &tokens[..start + chunk.len()]);
        }
        Ok(())
    }
}

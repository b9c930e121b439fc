//! Generation: paged key/value cache, continuous batching, sampling (SPEC INFER-3, POST-4).
//!
//! - [`Generator::generate`] answers a list of prompts, K samples each, and returns when all are done.
//! - [`Batcher`] owns a thread that answers requests as they come, for a server or a chat.
//!
//! **Batch-invariant.** An answer depends on the weights, the prompt, the [`Sampling`] and the number of the sample,
//! and on nothing else: not on what is computed beside it, on hits in the prefix cache, on how a prompt is cut into
//! chunks, on threads, or on the instruction set. The kernels give every row the same order of operations, and the
//! random numbers are a function of seed, prompt, sample and position.
//!
//! **On a card** (`card`) the same engine schedules, remembers and draws. There the same requests in the same steps give the
//! same bits, but company in a batch may change the last bits of a row, and so, where two tokens are nearly as likely, an
//! answer.

mod batcher;
pub mod bench;
mod cache;
mod card;
mod chat;
mod constraint;
mod embedding;
mod engine;
mod folder;
mod forward;
mod generator;
pub mod gguf;
mod kernels;
mod lookup;
mod model;
mod perplexity;
mod prefetch;
mod random;
mod request;
mod sampling;
mod team;
mod text;
mod weights;

pub use batcher::{Batcher, Submitted};
pub use chat::{CHAT_COMMANDS, ChatOptions, Questions, chat, goes_on, whole_question};
pub use constraint::{Constraint, Grammar, bounded_schema};
pub use embedding::Pooling;

pub use generator::{Completion, Generator};
pub use perplexity::{Perplexity, perplexity};
pub use request::{Event, FinishReason, Load, Request};
pub use sampling::{MAX_STOP_BYTES, MAX_STOPS, MAX_TOP_LOGPROBS, Sampling, TokenLogprob};

use herd_run::{Interrupted, SettingError};
use herd_tensor::cuda::{CardError, DeviceError};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

pub use herd_tensor::cuda::Device;

/// How the cache keeps keys and values. On a card it keeps them as activations are: [`CacheType::Auto`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CacheType {
    /// Half precision for a model whose weights have 16 bits or fewer, single precision for others.
    #[default]
    Auto,
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Bytes, with a scale per position and head.
    Q8,
}

/// What weights in bf16 are multiplied with. Quantised weights are always multiplied with bytes, others with floats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationType {
    /// Activations rounded to bf16, as those of a model trained in bf16 are; sums are in f32.
    #[default]
    Auto,
    /// Activations as they are, in f32, and by default a cache in f32.
    F32,
}

/// What the weights of the feed-forward layers are kept as on a card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightType {
    /// As all others are.
    #[default]
    Auto,
    /// e4m3 with a scale for each row, but for those of the first and last layer. Activations that they are multiplied with are
    /// rounded to it too, where there are more than 8 rows.
    Fp8,
}

/// How much runs at once and how much memory the cache may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where the model computes.
    pub device: Device,
    /// Tokens of all running prompts and answers together that the cache holds at most. When they are used up, the
    /// youngest answers wait until older ones are done; answers do not depend on it. 0 leaves it to the device: 32,768 on
    /// the processor, where memory is taken as needed; on a card what its memory has room for besides the weights, taken at
    /// once.
    pub cache_tokens: usize,
    /// How the cache keeps keys and values.
    pub cache_type: CacheType,
    /// What weights in bf16 are multiplied with.
    pub activations: ActivationType,
    /// What the weights of the feed-forward layers are kept as on a card.
    pub weights: WeightType,
    /// Answers that are computed at once at most.
    pub max_sequences: usize,
    /// Rows of one batch: running answers take one each, waiting prompts the rest. 0 leaves it to the device: 256 on the
    /// processor, 2,048 on a card.
    pub batch_tokens: usize,
    /// Tokens that are guessed at most from what followed the same words before, and computed on trial; 0 for none.
    /// Answers do not depend on it.
    pub lookup_tokens: usize,
    /// Requests that may wait for their turn in a [`Batcher`] before further ones are refused.
    pub max_waiting: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            cache_tokens: 0,
            cache_type: CacheType::Auto,
            activations: ActivationType::Auto,
            weights: WeightType::Auto,
            max_sequences: 64,
            batch_tokens: 0,
            lookup_tokens: 7,
            max_waiting: 128,
        }
    }
}

impl Settings {
    /// Checks every value; the error names the key.
    pub fn validate(&self) -> Result<(), SettingError> {
        match self.max_sequences {
            0 => Err(SettingError::new("max_sequences", "0 leaves no room to work; at least 1")),
            _ => Ok(()),
        }
    }
}

/// Why nothing can be generated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The prompt has no token to go on from.
    #[error("the prompt is empty; at least one token is needed (a begin-of-text token will do)")]
    EmptyPrompt,
    /// The prompt is as long as the context or longer.
    #[error(
        "the prompt has {prompt} tokens, but the model's context ends at {context} with the answer; shorten it"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens of the context.
        context: usize,
    },
    /// A token that the model does not have.
    #[error("token {token} is outside the model's vocabulary of {vocab}; was it made by another tokenizer?")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// No samples, or more than may run at once.
    #[error("{samples} samples of one prompt; between 1 and {most} (`max_sequences`)")]
    Samples {
        /// Samples asked for.
        samples: usize,
        /// Most that may run.
        most: usize,
    },
    /// Prompt and answer are larger than the whole cache.
    #[error(
        "prompt and answer may need {needed} tokens of cache, which has {cache}; lower `max_tokens` or raise `cache_tokens`"
    )]
    DoesNotFit {
        /// Tokens that may be needed.
        needed: usize,
        /// Tokens that the cache holds.
        cache: usize,
    },
    /// A text too short to be scored.
    #[error("the text has {tokens} tokens; at least {needed} are needed (two chunks)")]
    ShortText {
        /// Tokens of the text.
        tokens: usize,
        /// Least tokens.
        needed: usize,
    },
    /// The queue is full.
    #[error("the queue is full: {waiting} requests have no token of their answers yet; try again later")]
    Busy {
        /// Requests whose prompts are not computed yet, those under way included.
        waiting: usize,
    },
    /// The thread that computes is gone.
    #[error("generation has been shut down")]
    Closed,
    /// A schema or grammar that cannot be compiled.
    #[error("the grammar cannot be compiled: {0}")]
    Grammar(String),
    /// A setting whose value cannot work.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// There is no card that could be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The card failed.
    #[error("the card failed: {0}")]
    Card(#[from] CardError),
    /// The card's memory is too small.
    #[error(
        "the model needs {:.2} GB of the card's memory (weights {:.2}, cache {:.2}, the rest to compute with), but {:.2} are \
         free; lower `cache_tokens`, end what else uses the card, take a smaller model, or use the processor",
        *needed as f64 / 1e9, *weights as f64 / 1e9, *cache as f64 / 1e9, *free as f64 / 1e9
    )]
    CardMemory {
        /// Bytes in all.
        needed: usize,
        /// Bytes of the weights.
        weights: usize,
        /// Bytes of the cache.
        cache: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// The model cannot be read.
    #[error("{}: {problem}", path.display())]
    Model {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The weights of a folder cannot be read.
    #[error(transparent)]
    Weights(#[from] herd_model::weights::WeightsError),
    /// The tokenizer or its chat template does not work.
    #[error(transparent)]
    Tokenizer(#[from] herd_tokenizer::Error),
    /// Standard input or output failed.
    #[error("terminal: {0}")]
    Terminal(#[from] std::io::Error),
    /// The user asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

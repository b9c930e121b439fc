//! What is asked of a model, the news of its answers, and what the engine says of itself.

use crate::sampling::{Sampling, TokenLogprob};
use serde::{Deserialize, Serialize};

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

/// What the engine is doing now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests whose turn has not come.
    pub waiting: usize,
    /// Answers in the batch.
    pub running: usize,
    /// Answers that gave their pages to older ones and wait to go on.
    pub paused: usize,
    /// Pages that they refer to.
    pub pages_used: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// How often an answer had to give its pages to an older one since the start.
    pub preemptions: u64,
    /// Tokens that were computed again after that, because their pages were not in the cache any more.
    pub recomputed_tokens: u64,
    /// Prompt tokens computed since the start.
    pub prompt_tokens: u64,
    /// Prompt tokens found in the cache since the start.
    pub cached_tokens: u64,
    /// Answer tokens drawn since the start.
    pub answer_tokens: u64,
    /// Those of them that were guessed from the text before, and so cost no step of their own.
    pub guessed_tokens: u64,
}

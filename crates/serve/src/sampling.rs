//! The sampling fields that chat and text completions have in common.

use crate::fields::{Fields, wrong};
use crate::reply::ApiError;
use herd_infer::Sampling;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Most stop strings of one request (OpenAI allows 4).
const MAX_STOPS: usize = 16;
/// Most samples of one prompt.
pub(crate) const MAX_SAMPLES: u64 = 16;

/// 64 bits from the system's randomness, through the standard library's hash keys.
pub(crate) fn random_bits() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Reads temperature, filters, penalties, bias, seed and stop strings. `max_tokens` and `logprobs` differ between
/// the endpoints and are left to them.
pub(crate) fn sampling(f: &Fields<'_>) -> Result<Sampling, ApiError> {
    let default = Sampling::default();
    let or = |value: Option<f64>, default: f32| value.map_or(default, |v| v as f32);
    let mut logit_bias = BTreeMap::new();
    if let Some(value) = f.get("logit_bias") {
        let expected = "an object of token ids and numbers between -100 and 100";
        let map = value.as_object().ok_or_else(|| wrong("logit_bias", value, expected))?;
        for (token, bias) in map {
            let pair = token.parse().ok().zip(bias.as_f64().filter(|b| (-100.0..=100.0).contains(b)));
            let (token, bias): (u32, f64) = pair.ok_or_else(|| wrong("logit_bias", value, expected))?;
            logit_bias.insert(token, bias as f32);
        }
    }
    let seed = match f.get("seed") {
        None => random_bits(),
        Some(value) => match (value.as_i64(), value.as_u64()) {
            (Some(seed), _) => seed as u64,
            (None, Some(seed)) => seed,
            _ => return Err(wrong("seed", value, "a whole number of 64 bits")),
        },
    };
    let repetition = match f.number("repetition_penalty", 0.01..=10.0)? {
        None => f.number("repeat_penalty", 0.01..=10.0)?,
        given => given,
    };
    Ok(Sampling {
        temperature: or(f.number("temperature", 0.0..=2.0)?, default.temperature),
        // vLLM's and llama-server's clients write -1 for all.
        top_k: match f.get("top_k") {
            Some(value) if *value == -1 => 0,
            _ => f.whole("top_k", 0..=u64::from(u32::MAX))?.unwrap_or(0) as usize,
        },
        top_p: or(f.number("top_p", 1e-6..=1.0)?, default.top_p),
        min_p: or(f.number("min_p", 0.0..=1.0)?, default.min_p),
        repetition_penalty: or(repetition, default.repetition_penalty),
        frequency_penalty: or(f.number("frequency_penalty", -2.0..=2.0)?, default.frequency_penalty),
        presence_penalty: or(f.number("presence_penalty", -2.0..=2.0)?, default.presence_penalty),
        logit_bias,
        seed,
        stop: f.texts("stop", MAX_STOPS)?,
        // As vLLM and llama-server name them.
        stop_tokens: f.tokens("stop_token_ids", MAX_STOPS)?,
        ignore_end: f.flag("ignore_eos")?,
        ..default
    })
}

/// The most tokens of the answer: what the request says (-1: as many as the context holds), or the default as far as
/// the context allows.
pub(crate) fn max_tokens(
    f: &Fields<'_>,
    names: &[&str],
    default: usize,
    prompt: usize,
    context: usize,
) -> Result<usize, ApiError> {
    let room = context.saturating_sub(prompt).max(1);
    for name in names {
        // Only OpenAI has this name, and does not know -1.
        if *name != "max_completion_tokens" && f.get(name).is_some_and(|value| *value == -1) {
            return Ok(room);
        }
        if let Some(asked) = f.whole(name, 1..=u64::from(u32::MAX))? {
            if prompt.saturating_add(asked as usize) > context {
                let message = format!(
                    "the prompt has {prompt} tokens and `{name}` asks for {asked} more, but the model's context is {context} tokens"
                );
                return Err(ApiError::invalid(Some(name), message).with_code("context_length_exceeded"));
            }
            return Ok(asked as usize);
        }
    }
    Ok(default.min(room))
}

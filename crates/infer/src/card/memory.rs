//! What a model takes of a card's memory, and what is left for the cache.

use super::LOGIT_ROWS;
use super::feed_forward::layers_in_e4m3;
use super::pass::scratch_bytes;
use crate::cache::PAGE;
use crate::weights::{Sizes, Weights};
use crate::{CacheType, Error, Settings, WeightType};
use herd_run::SettingError;
use herd_tensor::cuda::{Card, DType};

/// Rows of a batch where the settings leave them to the device: long enough that products are limited by arithmetic.
const BATCH_TOKENS: usize = 2048;
/// Kept free for what cuBLASLt works with, for compiled kernels, and for texts that are scored or embedded meanwhile.
const RESERVE: usize = 384 << 20;
/// And this share of what is free, in percent.
const RESERVE_PERCENT: usize = 2;
/// Tokens of cache that must fit at least, where the settings leave it to the device.
const LEAST_TOKENS: usize = 4096;

/// Bytes of one page of the cache.
pub(super) fn page_bytes(s: &Sizes, dtype: DType) -> usize {
    2 * s.layers * s.kv_heads * PAGE * s.head_dim * dtype.size()
}

/// Bytes of all weights, of which some may be in e4m3.
pub(super) fn weight_bytes(s: &Sizes, dtype: DType, own_head: bool, e4m3: bool) -> usize {
    let (q, kv) = (s.heads * s.head_dim, s.kv_heads * s.head_dim);
    let layer = s.hidden * (2 * q + 2 * kv + 3 * s.ffn);
    let tables = s.vocab * s.hidden * (1 + usize::from(own_head));
    let all = (s.layers * layer + tables) * dtype.size() + (2 * s.layers + 1) * s.hidden * DType::F32.size();
    let shorter = if e4m3 { layers_in_e4m3(s.layers).len() } else { 0 };
    let (saved, scales) = (3 * s.ffn * s.hidden * (dtype.size() - 1), 2 * s.ffn + s.hidden);
    all - shorter * saved + shorter * scales * DType::F32.size()
}

/// The settings with what they leave to the device, if weights, buffers and cache fit into the card's memory.
pub(super) fn plan(
    card: &Card,
    weights: &Weights,
    dtype: DType,
    mut settings: Settings,
) -> Result<Settings, Error> {
    let named = if dtype == DType::F32 { "f32" } else { "bf16" };
    match (settings.cache_type, dtype) {
        (CacheType::Auto, _) | (CacheType::F32, DType::F32) => {}
        _ => {
            let problem =
                format!("on a card the cache keeps what activations are, here {named}; leave it at auto");
            return Err(SettingError::new("cache_type", problem).into());
        }
    }
    if settings.batch_tokens == 0 {
        settings.batch_tokens = BATCH_TOKENS;
    }
    let (s, free) = (&weights.sizes, card.free_memory()?);
    let rows = settings.batch_tokens.max(settings.max_sequences);
    let model = weight_bytes(s, dtype, weights.has_own_head(), settings.weights == WeightType::Fp8);
    let fixed = model + scratch_bytes(s, dtype, rows, LOGIT_ROWS) + RESERVE + free / 100 * RESERVE_PERCENT;
    let page = page_bytes(s, dtype);
    let left = free.saturating_sub(fixed) / page;
    let needed = match settings.cache_tokens {
        0 => LEAST_TOKENS.min(s.context).div_ceil(PAGE),
        tokens => tokens.div_ceil(PAGE),
    };
    if left < needed {
        return Err(Error::CardMemory {
            needed: fixed + needed * page,
            weights: model,
            cache: needed * page,
            free,
        });
    }
    if settings.cache_tokens == 0 {
        let all = settings.max_sequences.saturating_mul(s.context.next_multiple_of(PAGE));
        settings.cache_tokens = (left * PAGE).min(all);
    }
    Ok(settings)
}

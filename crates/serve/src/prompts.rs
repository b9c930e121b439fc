//! Prompts without a chat format, as texts or as tokens.

use crate::fields::wrong;
use crate::reply::ApiError;
use crate::server::App;
use serde_json::Value;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 2048;

/// The prompt in its four forms: a text, texts, tokens, lists of tokens.
pub(crate) fn prompts(app: &App, field: &str, value: &Value) -> Result<Vec<Vec<u32>>, ApiError> {
    let expected = format!("a string, a list of token ids, or a list of at most {MAX_PROMPTS} of these");
    let wrong = || wrong(field, value, &expected);
    let tokens = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|t| t.as_u64().and_then(|t| u32::try_from(t).ok())).collect()
    };
    let text = |text: &str| {
        let tokenizer = app.generator.tokenizer();
        let mut ids = Vec::from_iter(tokenizer.begin());
        tokenizer.encode_into(text, &mut ids);
        if ids.is_empty() {
            // Something must stand before the first token that is drawn.
            ids.extend(tokenizer.bos());
        }
        ids
    };
    match value {
        Value::String(s) => Ok(vec![text(s)]),
        Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_u64) => {
            Ok(vec![tokens(list).ok_or_else(wrong)?])
        }
        Value::Array(list) if (1..=MAX_PROMPTS).contains(&list.len()) => {
            let one = |v: &Value| match v {
                Value::String(s) => Ok(text(s)),
                Value::Array(list) => tokens(list).ok_or_else(wrong),
                _ => Err(wrong()),
            };
            list.iter().map(one).collect()
        }
        _ => Err(wrong()),
    }
}

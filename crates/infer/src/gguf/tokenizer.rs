//! The tokenizer inside a GGUF file.

use super::container::{Container, Value};
use crate::Error;
use herd_tokenizer::{GgufTokenizer, Tokenizer};

/// Makes the tokenizer from the metadata `tokenizer.*`.
pub(super) fn read(file: &Container) -> Result<Tokenizer, Error> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let wrong = |key: &str, expected: &str| file.problem(format!("`{key}` is not {expected}"));
    let text = |key: &str| match file.metadata.get(key) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(key, "a text")),
    };
    let flag = |name: &str| match file.metadata.get(&key(name)) {
        None => Ok(None),
        Some(Value::Flag(flag)) => Ok(Some(*flag)),
        Some(_) => Err(wrong(&key(name), "true or false")),
    };
    let id = |name: &str| match file.metadata.get(&key(name)) {
        Some(Value::Whole(n)) => u32::try_from(*n).ok(),
        _ => None,
    };
    let list = |name: &str| match file.metadata.get(&key(name)) {
        None => Ok([].as_slice()),
        Some(Value::List(values)) => Ok(values.as_slice()),
        Some(_) => Err(wrong(&key(name), "a list")),
    };
    let texts = |name: &str| match file.metadata.get(&key(name)) {
        None => Ok(Vec::new()),
        Some(&Value::Texts { at, count }) => Ok(file.texts(at, count).collect()),
        Some(_) => Err(wrong(&key(name), "a list of texts")),
    };
    let scores = |value: &Value| match value {
        Value::Number(score) if score.is_finite() => Ok(*score as f32),
        _ => Err(wrong(&key("scores"), "a list of finite numbers")),
    };
    let types = |value: &Value| match value {
        Value::Whole(kind) => Ok(*kind as i32),
        _ => Err(wrong(&key("token_type"), "a list of whole numbers")),
    };
    let model = text(&key("model"))?.ok_or_else(|| {
        file.problem(
            "`tokenizer.ggml.model` is missing: the file has no tokenizer; put a tokenizer.json beside it",
        )
    })?;
    let gguf = GgufTokenizer {
        model,
        pre: text(&key("pre"))?,
        tokens: texts("tokens")?,
        scores: list("scores")?.iter().map(scores).collect::<Result<_, _>>()?,
        types: list("token_type")?.iter().map(types).collect::<Result<_, _>>()?,
        merges: texts("merges")?,
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unknown: id("unknown_token_id"),
        padding: id("padding_token_id"),
        add_bos: flag("add_bos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
        chat_template: text("tokenizer.chat_template")?,
    };
    Tokenizer::from_gguf(&gguf).map_err(|e| match e {
        herd_tokenizer::Error::Vocabulary(problem) => file.problem(problem),
        other => file.problem(other.to_string()),
    })
}

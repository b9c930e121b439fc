//! Tokenizer files: Hugging Face's `tokenizer.json` (read and written) and tiktoken's rank file (read).

mod byte_level;
mod hugging_face;
mod tiktoken;

pub(crate) use byte_level::byte_order;

use crate::{Error, Tokenizer};
use herd_run::atomic::{self, FileError};
use serde::Deserialize;
use serde_json::json;
use std::path::Path;

/// The rank file beside Meta's own checkpoints.
const RANK_FILE: &str = "tokenizer.model";

pub(crate) fn load(path: &Path) -> Result<Tokenizer, Error> {
    if path.is_dir() {
        let json = path.join("tokenizer.json");
        let ranks = path.join(RANK_FILE);
        return load(if !json.exists() && ranks.exists() { &ranks } else { &json });
    }
    let bytes = atomic::read(path)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        hugging_face::parse(path, &bytes, chat_template(path)?)
    } else {
        tiktoken::parse(path, &bytes)
    }
}

/// The chat template of a model folder: a file of its own, as newer versions of Transformers write it, or a field
/// of `tokenizer_config.json`.
fn chat_template(tokenizer: &Path) -> Result<Option<String>, FileError> {
    #[derive(Deserialize)]
    struct Config {
        chat_template: Option<serde_json::Value>,
    }
    let own_file = tokenizer.with_file_name("chat_template.jinja");
    if own_file.exists() {
        return Ok(Some(String::from_utf8_lossy(&atomic::read(&own_file)?).into_owned()));
    }
    let config = tokenizer.with_file_name("tokenizer_config.json");
    if !config.exists() {
        return Ok(None);
    }
    // A list holds named templates; the one for plain dialogs is called "default".
    Ok(match atomic::read_json::<Config>(&config)?.chat_template {
        Some(serde_json::Value::String(template)) => Some(template),
        Some(serde_json::Value::Array(list)) => list
            .iter()
            .find(|t| t["name"] == "default")
            .and_then(|t| Some(t["template"].as_str()?.to_string())),
        _ => None,
    })
}

pub(crate) fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<(), Error> {
    let (bos, eos, pad) = ("<|begin_of_text|>", "<|eot_id|>", "<|finetune_right_pad_id|>");
    let decoder: serde_json::Map<_, _> = hugging_face::added_tokens(tokenizer)
        .into_iter()
        .map(|mut token| {
            let id = token.as_object_mut().and_then(|t| t.remove("id")).unwrap_or_default();
            (id.to_string(), token)
        })
        .collect();
    let config = json!({
        "added_tokens_decoder": decoder,
        "bos_token": bos,
        "chat_template": tokenizer.chat_template(),
        "clean_up_tokenization_spaces": false,
        "eos_token": eos,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 131_072,
        "pad_token": pad,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    atomic::write_json(&folder.join("tokenizer_config.json"), &config)?;
    atomic::write_json(
        &folder.join("special_tokens_map.json"),
        &json!({ "bos_token": bos, "eos_token": eos, "pad_token": pad }),
    )?;
    // Last, so that a folder with a tokenizer.json is a complete one.
    atomic::write_json(&folder.join("tokenizer.json"), &hugging_face::to_json(tokenizer))?;
    Ok(())
}

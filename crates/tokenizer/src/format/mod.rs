//! Tokenizer files: Hugging Face's `tokenizer.json` and GGUF's metadata (read and written), and tiktoken's rank file
//! (read).

mod byte_level;
mod gguf;
mod hugging_face;
mod tiktoken;

pub(crate) use byte_level::byte_order;
pub use gguf::GgufTokenizer;

use crate::{Error, Specials, Tokenizer};
use herd_run::atomic;
use serde_json::json;
use std::path::Path;

/// The rank file beside Meta's own checkpoints.
const RANK_FILE: &str = "tokenizer.model";

pub(crate) fn load(path: &Path) -> Result<Tokenizer, Error> {
    if path.is_dir() {
        let json = path.join("tokenizer.json");
        let ranks = path.join(RANK_FILE);
        if !json.exists() && !ranks.exists() {
            let problem = "has neither tokenizer.json nor Llama 3's tokenizer.model; copy it from where the model is from";
            return Err(Error::format(path, problem));
        }
        return load(if !json.exists() && ranks.exists() { &ranks } else { &json });
    }
    let bytes = atomic::read(path)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        hugging_face::parse(path, &bytes, Companions::read(path)?)
    } else if bytes.starts_with(b"GGUF") {
        Err(Error::format(path, "is a GGUF file; open it as a model"))
    } else {
        tiktoken::parse(path, &bytes, Companions::read(path)?)
    }
}

/// What the files beside a tokenizer say of it.
#[derive(Default)]
pub(crate) struct Companions {
    /// The template of a file of its own, as newer versions of Transformers write it, or of `tokenizer_config.json`.
    chat_template: Option<String>,
    /// Names of tokens.
    bos: Option<String>,
    eos: Option<String>,
    /// Set where it decides over the post-processor.
    add_bos: Option<bool>,
}

impl Companions {
    fn read(tokenizer: &Path) -> Result<Self, Error> {
        let mut companions = Self::default();
        let template = tokenizer.with_file_name("chat_template.jinja");
        if template.exists() {
            let text = String::from_utf8(atomic::read(&template)?).map_err(|e| {
                Error::format(&template, format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to()))
            })?;
            companions.chat_template = Some(text);
        }
        let config = tokenizer.with_file_name("tokenizer_config.json");
        if !config.exists() {
            return Ok(companions);
        }
        let config: serde_json::Value = atomic::read_json(&config)?;
        // A list holds named templates; the one for plain dialogs is called "default".
        companions.chat_template = companions.chat_template.or_else(|| match &config["chat_template"] {
            serde_json::Value::String(template) => Some(template.clone()),
            serde_json::Value::Array(list) => {
                let default = list.iter().find(|t| t["name"] == "default")?;
                Some(default["template"].as_str()?.to_string())
            }
            _ => None,
        });
        // A name, or (older files) an object with the name and how it is found.
        let name = |field: &str| {
            let value = &config[field];
            value.as_str().or(value["content"].as_str()).map(str::to_string)
        };
        (companions.bos, companions.eos) = (name("bos_token"), name("eos_token"));
        // Only the classes of Llama rebuild the post-processor from this field.
        let class = config["tokenizer_class"].as_str().unwrap_or_default();
        companions.add_bos = config["add_bos_token"].as_bool().filter(|_| class.starts_with("Llama"));
        Ok(companions)
    }
}

pub(crate) fn save(tokenizer: &Tokenizer, folder: &Path) -> Result<(), Error> {
    let name = |id: Option<u32>| {
        let id = id.filter(|&id| id != Specials::NONE)?;
        Some(String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned())
    };
    let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
    let pad = name(Some(tokenizer.specials().pad));
    let decoder: serde_json::Map<_, _> = hugging_face::added_tokens(tokenizer)
        .into_iter()
        .map(|mut token| {
            let id = token.as_object_mut().and_then(|t| t.remove("id")).unwrap_or_default();
            (id.to_string(), token)
        })
        .collect();
    let mut config = json!({
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
    let mut map = json!({ "bos_token": bos, "eos_token": eos, "pad_token": pad });
    for object in [&mut config, &mut map].into_iter().filter_map(serde_json::Value::as_object_mut) {
        object.retain(|_, value| !value.is_null() && *value != "");
    }
    atomic::write_json(&folder.join("tokenizer_config.json"), &config)?;
    atomic::write_json(&folder.join("special_tokens_map.json"), &map)?;
    // Last, so that a folder with a tokenizer.json is a complete one.
    atomic::write_json(&folder.join("tokenizer.json"), &hugging_face::to_json(tokenizer))?;
    Ok(())
}

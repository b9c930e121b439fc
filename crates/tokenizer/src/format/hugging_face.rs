use super::byte_level::{to_bytes, to_text};
use crate::bpe::{Bpe, Merge, Vocabulary};
use crate::split::LLAMA3_PATTERN;
use crate::{Error, Tokenizer};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    model: Model,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: serde_json::Map<String, Value>,
    merges: Vec<Pair>,
    #[serde(default)]
    ignore_merges: bool,
}

/// A merge: two strings, or (older files) one string with a space between.
#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Two(String, String),
    Joined(String),
}

pub(super) fn parse(path: &Path, bytes: &[u8], chat_template: Option<String>) -> Result<Tokenizer, Error> {
    let wrong = |problem: String| Error::format(path, problem);
    let file: File =
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("not a tokenizer.json: {e}")))?;
    check_rules(&file).map_err(wrong)?;

    // Tokens by id. Files of other tools list special tokens in the vocabulary also; they are taken once.
    let mut added = file.added_tokens;
    added.sort_by_key(|t| t.id);
    let base =
        file.model.vocab.len() - added.iter().filter(|t| file.model.vocab.contains_key(&t.content)).count();
    let mut tokens = vec![None; base];
    let names: HashSet<&str> = added.iter().map(|t| t.content.as_str()).collect();
    for (text, id) in file.model.vocab.iter().filter(|(text, _)| !names.contains(text.as_str())) {
        let slot = id.as_u64().and_then(|id| tokens.get_mut(id as usize)).ok_or_else(|| {
            wrong(format!(
                "model.vocab: {text:?} has id {id}; the {base} tokens must have the ids 0 to {}",
                base.saturating_sub(1)
            ))
        })?;
        *slot =
            Some(to_bytes(text).map_err(|c| {
                wrong(format!("model.vocab: {text:?} has {c:?}, not a byte-level character"))
            })?);
    }
    for (at, token) in added.iter().enumerate() {
        if token.id as usize != base + at {
            return Err(wrong(format!(
                "added_tokens: {:?} has id {}; special tokens must follow the vocabulary without a gap, here as {}",
                token.content,
                token.id,
                base + at
            )));
        }
    }
    let tokens: Option<Vec<Vec<u8>>> = tokens.into_iter().collect();
    let tokens = tokens.ok_or_else(|| wrong("model.vocab: two tokens have the same id".into()))?;
    let vocabulary = Vocabulary::new(&tokens).map_err(|e| wrong(e.to_string()))?;
    let merges = merges(&file.model.merges, &vocabulary).map_err(wrong)?;
    let bpe = Bpe::new(vocabulary, merges, file.model.ignore_merges).map_err(|e| wrong(e.to_string()))?;
    let names = added.into_iter().map(|t| t.content).collect();
    Tokenizer::new(bpe, names, chat_template).map_err(|e| wrong(e.to_string()))
}

/// Refuses what this program would encode differently from the file's author.
fn check_rules(file: &File) -> Result<(), String> {
    if file.model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
        return Err(format!("model.type is {:?}; only \"BPE\" is supported", file.model.kind));
    }
    if !file.normalizer.is_null() {
        return Err("normalizer: must be null, as Llama 3's".into());
    }
    let steps = match &file.pre_tokenizer["pretokenizers"] {
        Value::Array(steps) => steps.as_slice(),
        _ => std::slice::from_ref(&file.pre_tokenizer),
    };
    let pattern = steps.iter().find(|s| s["type"] == "Split").map(|s| &s["pattern"]["Regex"]);
    if pattern.and_then(Value::as_str) != Some(LLAMA3_PATTERN) {
        return Err(format!("pre_tokenizer: must split by the Llama 3 rule {LLAMA3_PATTERN}"));
    }
    let byte_level = steps.iter().find(|s| s["type"] == "ByteLevel");
    if byte_level.is_none_or(|s| s["use_regex"] != false || s["add_prefix_space"] != false) {
        return Err(
            "pre_tokenizer: must end with ByteLevel, add_prefix_space false and use_regex false".into()
        );
    }
    Ok(())
}

fn merges(pairs: &[Pair], vocabulary: &Vocabulary) -> Result<Vec<Merge>, String> {
    let id = |rank: usize, bytes: &[u8]| {
        vocabulary
            .id(bytes)
            .ok_or_else(|| format!("model.merges[{rank}]: {:?} is not in the vocabulary", to_text(bytes)))
    };
    pairs
        .iter()
        .enumerate()
        .map(|(rank, pair)| {
            let (left, right) = match pair {
                Pair::Two(left, right) => (left.as_str(), right.as_str()),
                Pair::Joined(both) => both
                    .split_once(' ')
                    .ok_or_else(|| format!("model.merges[{rank}]: {both:?} is not two tokens"))?,
            };
            let bytes = |text| {
                to_bytes(text)
                    .map_err(|c| format!("model.merges[{rank}]: {c:?} is not a byte-level character"))
            };
            let (left, right) = (bytes(left)?, bytes(right)?);
            let result = id(rank, &[left.as_slice(), right.as_slice()].concat())?;
            Ok(Merge { left: id(rank, &left)?, right: id(rank, &right)?, result, rank: rank as u32 })
        })
        .collect()
}

/// The special tokens as `tokenizer.json` lists them.
pub(super) fn added_tokens(tokenizer: &Tokenizer) -> Vec<Value> {
    let first = tokenizer.first_special() as usize;
    let entry = |(at, name): (usize, &String)| {
        json!({
            "id": first + at, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    tokenizer.special_names().iter().enumerate().map(entry).collect()
}

pub(super) fn to_json(tokenizer: &Tokenizer) -> Value {
    let vocabulary = tokenizer.bpe().vocabulary();
    let vocab: serde_json::Map<_, _> =
        (0..vocabulary.len() as u32).map(|id| (to_text(vocabulary.bytes(id)), json!(id))).collect();
    let text = |id| to_text(vocabulary.bytes(id));
    let merges: Vec<_> =
        tokenizer.bpe().merges().ordered().iter().map(|m| json!([text(m.left), text(m.right)])).collect();
    let byte_level = |add_prefix_space: bool, use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex });
    let bos = "<|begin_of_text|>";
    let special = |type_id: u32| json!({ "SpecialToken": { "id": bos, "type_id": type_id } });
    let sequence = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(tokenizer),
        "normalizer": null,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": LLAMA3_PATTERN }, "behavior": "Isolated", "invert": false },
                byte_level(false, false),
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [special(0), sequence("A", 0)],
            "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
            "special_tokens": { bos: { "id": bos, "ids": [tokenizer.specials().bos], "tokens": [bos] } },
        },
        "decoder": byte_level(true, true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": tokenizer.bpe().whole_pieces(),
            "vocab": vocab,
            "merges": merges,
        },
    })
}

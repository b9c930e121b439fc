use super::super::byte_level::to_text;
use crate::bpe::{Bpe, MissingBytes};
use crate::sentence_piece::{SPACE, SentencePiece, SpacePrefix};
use crate::split::{GPT2_PATTERN, LLAMA3_PATTERN, Split, Step};
use crate::tokenizer::Model;
use crate::{EntryKind, Tokenizer};
use serde_json::{Map, Value, json};

/// The added tokens as `tokenizer.json` lists them.
pub(in crate::format) fn added_tokens(tokenizer: &Tokenizer) -> Vec<Value> {
    let entry = |token: &crate::added::AddedToken| {
        json!({
            "id": token.id, "content": token.content, "single_word": false, "lstrip": token.lstrip,
            "rstrip": token.rstrip, "normalized": false, "special": token.special,
        })
    };
    tokenizer.added().iter().map(entry).collect()
}

pub(in crate::format) fn to_json(tokenizer: &Tokenizer) -> Value {
    let pre_tokenizer = match tokenizer.model() {
        Model::Bytes(bpe) => byte_level_steps(&bpe.rules().split, tokenizer.prefix_space()),
        Model::Pieces(pieces) => metaspace(pieces),
    };
    let (decoder, model) = match tokenizer.model() {
        Model::Bytes(bpe) => (byte_level(true, true), byte_model(tokenizer, bpe)),
        Model::Pieces(pieces) => (piece_decoder(pieces.prefix()), piece_model(tokenizer, pieces)),
    };
    let normalizer = match tokenizer.model() {
        Model::Pieces(pieces) => normalizer(pieces.prefix()),
        Model::Bytes(_) => Value::Null,
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(tokenizer),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(tokenizer),
        "decoder": decoder,
        "model": model,
    })
}

fn byte_level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex })
}

fn byte_level_steps(split: &Split, prefix_space: bool) -> Value {
    let steps = split.steps();
    // GPT-2's rule as the last step is what ByteLevel does by itself.
    let (steps, use_regex) = match steps.split_last() {
        Some((Step::Gpt2, before)) => (before, true),
        _ => (steps, false),
    };
    let by = |pattern: &str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let mut list: Vec<Value> = steps
        .iter()
        .map(|step| match step {
            Step::Llama3 => by(LLAMA3_PATTERN),
            Step::Gpt2 => by(GPT2_PATTERN),
            Step::Pattern(pattern) => by(pattern.source()),
            Step::Digits { individual } => json!({ "type": "Digits", "individual_digits": individual }),
        })
        .collect();
    let last = byte_level(prefix_space, use_regex);
    if list.is_empty() {
        return last;
    }
    list.push(last);
    json!({ "type": "Sequence", "pretokenizers": list })
}

fn normalizer(prefix: SpacePrefix) -> Value {
    let space = SPACE.to_string();
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": space });
    match prefix {
        SpacePrefix::Always => {
            json!({ "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": space }, replace] })
        }
        SpacePrefix::Never => replace,
        SpacePrefix::UnlessSpace | SpacePrefix::First => Value::Null,
    }
}

fn metaspace(pieces: &SentencePiece) -> Value {
    let scheme = match pieces.prefix() {
        SpacePrefix::Always | SpacePrefix::Never if !pieces.split_words() => return Value::Null,
        SpacePrefix::Always | SpacePrefix::Never => "never",
        SpacePrefix::UnlessSpace => "always",
        SpacePrefix::First => "first",
    };
    let split = pieces.split_words();
    json!({ "type": "Metaspace", "replacement": SPACE.to_string(), "prepend_scheme": scheme, "split": split })
}

fn piece_decoder(prefix: SpacePrefix) -> Value {
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE.to_string() }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix != SpacePrefix::Never {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}

fn post_processor(tokenizer: &Tokenizer) -> Value {
    let Some(begin) = tokenizer.begin() else { return Value::Null };
    let bos = String::from_utf8_lossy(tokenizer.token_bytes(begin)).into_owned();
    let special = |type_id: u32| json!({ "SpecialToken": { "id": bos, "type_id": type_id } });
    let sequence = |name: &str, type_id: u32| json!({ "Sequence": { "id": name, "type_id": type_id } });
    json!({
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), special(1), sequence("B", 1)],
        "special_tokens": { &bos: { "id": bos, "ids": [begin], "tokens": [bos] } },
    })
}

/// All ids but the added tokens after the last text: those are numbered by their place, others by the vocabulary.
fn vocabulary(tokenizer: &Tokenizer, text: impl Fn(u32) -> String) -> Map<String, Value> {
    let ids = 0..tokenizer.vocab_size() as u32;
    let added = |id: u32| matches!(tokenizer.kind(id), Some(EntryKind::Special | EntryKind::Added));
    let end = ids.clone().rev().find(|&id| !added(id)).map_or(0, |last| last + 1);
    ids.take_while(|&id| id < end)
        .map(|id| match tokenizer.kind(id) {
            Some(EntryKind::Text) => (text(id), json!(id)),
            Some(EntryKind::Byte) => (format!("<0x{:02X}>", tokenizer.token_bytes(id)[0]), json!(id)),
            Some(EntryKind::Unused) if tokenizer.token_bytes(id).is_empty() => {
                (format!("<unused_{id}>"), json!(id))
            }
            _ => (String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned(), json!(id)),
        })
        .collect()
}

fn byte_model(tokenizer: &Tokenizer, bpe: &Bpe) -> Value {
    let text = |id: u32| to_text(bpe.vocabulary().bytes(id));
    let merges: Vec<_> =
        bpe.merges().ordered().iter().map(|m| json!([text(m.left), text(m.right)])).collect();
    let (unknown, fuse) = match bpe.rules().missing {
        MissingBytes::Unknown { id, fuse } => {
            (json!(String::from_utf8_lossy(tokenizer.token_bytes(id))), fuse)
        }
        MissingBytes::Skipped | MissingBytes::Dropped => (Value::Null, false),
    };
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": fuse,
        "byte_fallback": false,
        "ignore_merges": bpe.rules().whole_pieces,
        "vocab": vocabulary(tokenizer, text),
        "merges": merges,
    })
}

fn piece_model(tokenizer: &Tokenizer, pieces: &SentencePiece) -> Value {
    let text = |id: u32| String::from_utf8_lossy(pieces.pieces().bytes(id)).into_owned();
    let merges: Vec<_> = pieces.pairs().into_iter().map(|(l, r)| json!([text(l), text(r)])).collect();
    let unknown = tokenizer.special("<unk>").map(|_| "<unk>");
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unknown,
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": true,
        "byte_fallback": true,
        "ignore_merges": false,
        "vocab": vocabulary(tokenizer, text),
        "merges": merges,
    })
}

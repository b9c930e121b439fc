//! Hugging Face's `tokenizer.json`.

mod rules;
mod write;

pub(super) use write::{added_tokens, to_json};

use super::Companions;
use super::byte_level::{to_bytes, to_text};
use crate::added::AddedToken;
use crate::bpe::{Bpe, Merge, MissingBytes, Rules, Vocabulary};
use crate::sentence_piece::{Ranking, SentencePiece};
use crate::tokenizer::{Model, Parts};
use crate::vocabulary::{Entry, EntryKind};
use crate::{Error, Tokenizer};
use rules::Family;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
    model: FileModel,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
}

#[derive(Deserialize)]
struct FileModel {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: serde_json::Map<String, Value>,
    #[serde(default)]
    merges: Vec<Pair>,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    unk_token: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
}

/// A merge: two strings, or (older files) one string with a space between.
#[derive(Deserialize)]
#[serde(untagged)]
enum Pair {
    Two(String, String),
    Joined(String),
}

impl Pair {
    fn sides(&self, rank: usize) -> Result<(&str, &str), String> {
        match self {
            Pair::Two(left, right) => Ok((left, right)),
            Pair::Joined(both) => both
                .split_once(' ')
                .ok_or_else(|| format!("model.merges[{rank}]: {both:?} is not two tokens")),
        }
    }
}

pub(super) fn parse(path: &Path, bytes: &[u8], companions: Companions) -> Result<Tokenizer, Error> {
    let wrong = |problem: String| Error::format(path, problem);
    let kind: Kind =
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("not a tokenizer.json: {e}")))?;
    if let Some(name) = kind.model.kind.filter(|kind| kind != "BPE") {
        return Err(wrong(format!("model.type is {name:?}; only \"BPE\" is supported")));
    }
    let file: File =
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("not a tokenizer.json: {e}")))?;
    assemble(file, companions).map_err(wrong)
}

/// What is looked at before the rest, which other models write otherwise.
#[derive(Deserialize)]
struct Kind {
    model: KindModel,
}

#[derive(Deserialize)]
struct KindModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn assemble(mut file: File, companions: Companions) -> Result<Tokenizer, String> {
    for (field, value) in [
        ("continuing_subword_prefix", &file.model.continuing_subword_prefix),
        ("end_of_word_suffix", &file.model.end_of_word_suffix),
    ] {
        if let Some(text) = value.as_ref().filter(|text| !text.is_empty()) {
            return Err(format!("model.{field} is {text:?}, which is not supported; it must be null"));
        }
    }
    debug_assert!(file.model.kind.as_deref().is_none_or(|kind| kind == "BPE"));
    let family = rules::family(&file.normalizer, &file.pre_tokenizer, file.model.byte_fallback)?;
    file.added_tokens.sort_by_key(|token| token.id);
    let bytes = matches!(family, Family::Bytes { .. });
    let entries = entries(&file, bytes)?;
    let added: Vec<AddedToken> = std::mem::take(&mut file.added_tokens)
        .into_iter()
        .map(|t| AddedToken {
            id: t.id,
            content: t.content,
            special: t.special,
            lstrip: t.lstrip,
            rstrip: t.rstrip,
        })
        .collect();
    let vocabulary = Vocabulary::new(&entries).map_err(|e| e.to_string())?;
    let (model, prefix_space) = match family {
        Family::Bytes { split, prefix_space } => {
            let unknown = file.model.unk_token.as_deref().and_then(|name| file.id(name, &added));
            let missing = match unknown {
                Some(id) => MissingBytes::Unknown { id, fuse: file.model.fuse_unk },
                None => MissingBytes::Skipped,
            };
            let merges = byte_merges(&file.model.merges, &vocabulary)?;
            let rules = Rules { split, whole_pieces: file.model.ignore_merges, missing };
            (Model::Bytes(Bpe::new(vocabulary, merges, rules)), prefix_space)
        }
        Family::Pieces { prefix, split_words } => {
            let id = |rank: usize, text: &str| {
                vocabulary
                    .id(text.as_bytes())
                    .ok_or_else(|| format!("model.merges[{rank}]: {text:?} is not in the vocabulary"))
            };
            let pairs = file.model.merges.iter().enumerate().map(|(rank, pair)| {
                let (left, right) = pair.sides(rank)?;
                id(rank, &format!("{left}{right}"))?;
                Ok((id(rank, left)?, id(rank, right)?))
            });
            let pairs = pairs.collect::<Result<Vec<_>, String>>()?;
            let pieces = SentencePiece::new(&entries, Ranking::Merges(&pairs), prefix, split_words);
            (Model::Pieces(pieces.map_err(|e| e.to_string())?), false)
        }
    };
    let named = |name: &Option<String>| name.as_deref().and_then(|name| file.id(name, &added));
    let (bos, eos) = (named(&companions.bos), named(&companions.eos));
    let find = |name: &str| added.iter().find(|token| token.content == name).map(|token| token.id);
    let bos = bos.or_else(|| find("<|begin_of_text|>"));
    let eos = eos.or_else(|| find("<|eot_id|>"));
    let begin = match companions.add_bos {
        Some(true) => bos,
        Some(false) => None,
        None => rules::begin(&file.post_processor).and_then(|name| file.id(name, &added)),
    };
    let parts = Parts {
        model,
        kinds: entries.iter().map(|entry| entry.kind).collect(),
        added,
        prefix_space,
        bos,
        eos,
        begin,
        chat_template: companions.chat_template,
    };
    Tokenizer::assemble(parts).map_err(|e| e.to_string())
}

impl File {
    fn id(&self, name: &str, added: &[AddedToken]) -> Option<u32> {
        let listed = added.iter().find(|token| token.content == name).map(|token| token.id);
        listed.or_else(|| self.model.vocab.get(name)?.as_u64().map(|id| id as u32))
    }
}

/// All ids in order. Files of other tools list added tokens in the vocabulary also; they are taken once.
fn entries(file: &File, bytes: bool) -> Result<Vec<Entry>, String> {
    let names: HashSet<&str> = file.added_tokens.iter().map(|t| t.content.as_str()).collect();
    let known = file.model.vocab.len() + file.added_tokens.len();
    let most = 2 * known + 1024;
    let place = |what: &str, text: &str, id: Option<u64>| match id {
        Some(id) if (id as usize) < most => Ok(id as usize),
        Some(id) => Err(format!("{what}: {text:?} has id {id}, but there are only {known} tokens")),
        None => Err(format!("{what}: {text:?} has no whole number as its id")),
    };
    let mut slots: Vec<Option<Entry>> = Vec::new();
    let mut put = |at: usize, entry: Entry| -> Result<(), String> {
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        let text = || String::from_utf8_lossy(&entry.bytes).into_owned();
        if slots[at].is_some() {
            return Err(format!("two tokens have the id {at}; one is {:?}", text()));
        }
        slots[at] = Some(entry);
        Ok(())
    };
    for token in &file.added_tokens {
        if token.single_word {
            let name = &token.content;
            return Err(format!("added_tokens: {name:?} is `single_word`, which is not supported"));
        }
        let kind = if token.special { EntryKind::Special } else { EntryKind::Added };
        let at = place("added_tokens", &token.content, Some(token.id.into()))?;
        if let Some(other) = file.model.vocab.get(&token.content).filter(|id| id.as_u64() != Some(at as u64))
        {
            return Err(format!("added_tokens: {:?} has id {at}, in model.vocab {other}", token.content));
        }
        put(at, Entry::new(token.content.as_bytes(), kind))?;
    }
    for (text, id) in file.model.vocab.iter().filter(|(text, _)| !names.contains(text.as_str())) {
        let entry = if bytes {
            Entry::text(
                to_bytes(text)
                    .map_err(|c| format!("model.vocab: {text:?} has {c:?}, not a byte-level character"))?,
            )
        } else {
            match byte_name(text) {
                Some(byte) => Entry::new([byte], EntryKind::Byte),
                None => Entry::text(text.as_bytes()),
            }
        };
        put(place("model.vocab", text, id.as_u64())?, entry)?;
    }
    Ok(slots.into_iter().map(|slot| slot.unwrap_or(Entry::new([], EntryKind::Unused))).collect())
}

/// The byte that a name such as `<0x0A>` stands for.
pub(super) fn byte_name(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

fn byte_merges(pairs: &[Pair], vocabulary: &Vocabulary) -> Result<Vec<Merge>, String> {
    let id = |rank: usize, bytes: &[u8]| {
        vocabulary
            .id(bytes)
            .ok_or_else(|| format!("model.merges[{rank}]: {:?} is not in the vocabulary", to_text(bytes)))
    };
    pairs
        .iter()
        .enumerate()
        .map(|(rank, pair)| {
            let (left, right) = pair.sides(rank)?;
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

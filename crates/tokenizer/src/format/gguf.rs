//! The tokenizer inside a GGUF file, as llama.cpp writes and reads it.

use super::byte_level::{append_bytes, to_bytes, to_text};
use super::hugging_face::byte_name;
use crate::added::AddedToken;
use crate::bpe::{Bpe, Merge, MissingBytes, Rules, Vocabulary};
use crate::sentence_piece::{Ranking, SentencePiece, SpacePrefix};
use crate::split::{GPT2_PATTERN, Split, Step};
use crate::tokenizer::{Model, Parts};
use crate::vocabulary::{Entry, EntryKind};
use crate::{Error, Tokenizer};
use std::borrow::Cow;

/// What GGUF's metadata says of a tokenizer (`tokenizer.ggml.*` and `tokenizer.chat_template`). The long lists may be
/// those of an open file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufTokenizer<'a> {
    /// `model`: "gpt2" (byte-level) or "llama" (SentencePiece).
    pub model: String,
    /// `pre`: name of the split rule of a byte-level vocabulary.
    pub pre: Option<String>,
    /// `tokens`
    pub tokens: Vec<Cow<'a, str>>,
    /// `scores` of a SentencePiece vocabulary.
    pub scores: Vec<f32>,
    /// `token_type`: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. All normal if empty.
    pub types: Vec<i32>,
    /// `merges`: two tokens with a space between.
    pub merges: Vec<Cow<'a, str>>,
    /// `bos_token_id`
    pub bos: Option<u32>,
    /// `eos_token_id`
    pub eos: Option<u32>,
    /// `unknown_token_id`
    pub unknown: Option<u32>,
    /// `padding_token_id`
    pub padding: Option<u32>,
    /// `add_bos_token`
    pub add_bos: Option<bool>,
    /// `add_space_prefix`
    pub add_space_prefix: Option<bool>,
    /// `tokenizer.chat_template`
    pub chat_template: Option<String>,
}

/// The rule of Qwen 2: that of Llama 3 with single digits.
const QWEN2_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Split rules by llama.cpp's names, and whether a piece that is a token is that token.
fn rules(pre: &str) -> Option<(Vec<Step>, bool)> {
    let patterns = |list: &[&str]| list.iter().map(|p| Step::of_pattern(p).ok()).collect::<Option<Vec<_>>>();
    Some(match pre {
        "llama-bpe" | "llama3" | "llama-v3" => (vec![Step::Llama3], true),
        "dbrx" | "smaug-bpe" => (vec![Step::Llama3], false),
        "smollm" => (vec![Step::Digits { individual: true }, Step::Gpt2], false),
        "gpt-2" => (vec![Step::Gpt2], false),
        "qwen2" => (patterns(&[QWEN2_PATTERN])?, false),
        "default" => {
            (patterns(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", "[0-9][0-9][0-9]"])?, false)
        }
        _ => return None,
    })
}

const NAMES: &str = "llama-bpe, smollm, gpt-2, default, qwen2 and dbrx";

impl Tokenizer {
    /// The tokenizer that a GGUF file describes; gives the ids that llama.cpp gives.
    ///
    /// # Errors
    /// A kind of tokenizer or a split rule that is not supported, or lists that contradict each other; the message
    /// names the metadata key.
    pub fn from_gguf(gguf: &GgufTokenizer<'_>) -> Result<Self, Error> {
        parse(gguf).map_err(Error::Vocabulary)
    }

    /// What a GGUF file has to say of this tokenizer, so that llama.cpp gives the same ids.
    ///
    /// # Errors
    /// llama.cpp has no name for the split rule.
    pub fn to_gguf(&self) -> Result<GgufTokenizer<'static>, Error> {
        describe(self).map_err(Error::Vocabulary)
    }
}

fn parse(gguf: &GgufTokenizer<'_>) -> Result<Tokenizer, String> {
    let count = gguf.tokens.len();
    for (key, length) in [("token_type", gguf.types.len()), ("scores", gguf.scores.len())] {
        if length != 0 && length != count {
            return Err(format!("`tokenizer.ggml.{key}` has {length} entries for {count} tokens"));
        }
    }
    for (key, id) in [("bos", gguf.bos), ("eos", gguf.eos), ("unknown", gguf.unknown)] {
        if let Some(id) = id.filter(|&id| id as usize >= count && id != u32::MAX) {
            return Err(format!("`tokenizer.ggml.{key}_token_id` is {id}, but there are {count} tokens"));
        }
    }
    let bytes = match gguf.model.as_str() {
        "gpt2" => true,
        "llama" => false,
        other => {
            return Err(format!("`tokenizer.ggml.model` is {other:?}; \"gpt2\" and \"llama\" are supported"));
        }
    };
    let (mut entries, mut added) = (Vec::with_capacity(count), Vec::new());
    for (id, token) in gguf.tokens.iter().enumerate() {
        let kind = gguf.types.get(id).copied().unwrap_or(1);
        let entry = match kind {
            2 | 3 => Entry::new(token.as_bytes(), EntryKind::Special),
            4 => Entry::new(token.as_bytes(), EntryKind::Added),
            5 => Entry::new(token.as_bytes(), EntryKind::Unused),
            6 => match byte_name(token) {
                Some(byte) => Entry::new([byte], EntryKind::Byte),
                None => {
                    return Err(format!(
                        "`tokenizer.ggml.tokens`: {token:?} ({id}) is no byte, such as <0x0A>"
                    ));
                }
            },
            1 if bytes => Entry::text(to_bytes(token).map_err(|c| {
                format!("`tokenizer.ggml.tokens`: {token:?} ({id}) has {c:?}, not a byte-level character")
            })?),
            1 => Entry::text(token.as_bytes()),
            other => {
                return Err(format!(
                    "`tokenizer.ggml.token_type`: token {id} has type {other}; 1 to 6 are known"
                ));
            }
        };
        if matches!(entry.kind, EntryKind::Special | EntryKind::Added) && !token.is_empty() {
            let special = entry.kind == EntryKind::Special;
            added.push(AddedToken { special, ..AddedToken::special(id as u32, token.as_ref()) });
        }
        entries.push(entry);
    }
    let given = |id: Option<u32>| id.filter(|&id| (id as usize) < count);
    let (model, begins) = if bytes {
        let pre = gguf.pre.as_deref().unwrap_or("default");
        let (steps, whole_pieces) =
            rules(pre).ok_or_else(|| format!("`tokenizer.ggml.pre` is {pre:?}; {NAMES} are supported"))?;
        let vocabulary = Vocabulary::new(&entries).map_err(|e| e.to_string())?;
        let merges = merges(&gguf.merges, &vocabulary)?;
        let rules = Rules { split: Split::of(steps), whole_pieces, missing: MissingBytes::Dropped };
        let begins = gguf.add_bos.unwrap_or(whole_pieces);
        (Model::Bytes(Bpe::new(vocabulary, merges, rules)), begins)
    } else {
        if gguf.scores.is_empty() {
            return Err("`tokenizer.ggml.scores` is missing; a \"llama\" vocabulary needs it".into());
        }
        let prefix = match gguf.add_space_prefix {
            Some(false) => SpacePrefix::Never,
            _ => SpacePrefix::Always,
        };
        let pieces = SentencePiece::new(&entries, Ranking::Scores(&gguf.scores), prefix, false);
        (Model::Pieces(pieces.map_err(|e| e.to_string())?), gguf.add_bos.unwrap_or(true))
    };
    let (bos, eos) = match bytes {
        true => (given(gguf.bos), given(gguf.eos)),
        false => (given(gguf.bos).or(given(Some(1))), given(gguf.eos).or(given(Some(2)))),
    };
    Tokenizer::assemble(Parts {
        model,
        kinds: entries.iter().map(|entry| entry.kind).collect(),
        added,
        prefix_space: false,
        bos,
        eos,
        begin: bos.filter(|_| begins),
        chat_template: gguf.chat_template.clone(),
    })
    .map_err(|e| e.to_string())
}

fn merges(list: &[Cow<'_, str>], vocabulary: &Vocabulary) -> Result<Vec<Merge>, String> {
    let mut both = Vec::new();
    let parse = |(rank, text): (usize, &Cow<'_, str>)| {
        let wrong = |what: &str| format!("`tokenizer.ggml.merges`: number {rank}, {text:?}, {what}");
        // The separator is the first space after the first character: a token may not begin with one otherwise.
        let first = text.chars().next().map_or(0, char::len_utf8);
        let at = text[first..].find(' ').ok_or_else(|| wrong("is not two tokens"))? + first;
        both.clear();
        let no_bytes = |_| wrong("has no byte-level characters");
        append_bytes(&text[..at], &mut both).map_err(no_bytes)?;
        let middle = both.len();
        append_bytes(&text[at + 1..], &mut both).map_err(no_bytes)?;
        let id = |bytes: &[u8]| vocabulary.id(bytes).ok_or_else(|| wrong("is not in the vocabulary"));
        let (left, right, result) = (id(&both[..middle])?, id(&both[middle..])?, id(&both)?);
        Ok(Merge { left, right, result, rank: rank as u32 })
    };
    list.iter().enumerate().map(parse).collect()
}

fn describe(tokenizer: &Tokenizer) -> Result<GgufTokenizer<'static>, String> {
    if tokenizer.prefix_space() {
        return Err(
            "the tokenizer puts a space before texts (`add_prefix_space`), which GGUF cannot say of a \
                    byte-level one; keep the model in safetensors"
                .into(),
        );
    }
    let ids = 0..tokenizer.vocab_size() as u32;
    let name = |id: u32| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned();
    let unknown = tokenizer.special("<unk>");
    let token = |id: u32| match tokenizer.kind(id) {
        Some(EntryKind::Text) => match tokenizer.model() {
            Model::Bytes(bpe) => (to_text(bpe.vocabulary().bytes(id)), 1),
            Model::Pieces(pieces) => (String::from_utf8_lossy(pieces.pieces().bytes(id)).into_owned(), 1),
        },
        Some(EntryKind::Byte) => (format!("<0x{:02X}>", tokenizer.token_bytes(id)[0]), 6),
        Some(EntryKind::Special) => (name(id), if unknown == Some(id) { 2 } else { 3 }),
        Some(EntryKind::Added) => (name(id), 4),
        // llama.cpp wants every name once.
        _ => (format!("[UNUSED_{id}]"), 5),
    };
    let (tokens, types) = ids.map(token).map(|(text, kind)| (Cow::Owned(text), kind)).unzip();
    let mut gguf = GgufTokenizer {
        tokens,
        types,
        bos: tokenizer.bos(),
        eos: tokenizer.eos(),
        add_bos: Some(tokenizer.begin().is_some()),
        chat_template: Some(tokenizer.chat_template().to_string()).filter(|text| !text.is_empty()),
        ..GgufTokenizer::default()
    };
    match tokenizer.model() {
        Model::Bytes(bpe) => {
            gguf.model = "gpt2".into();
            gguf.pre = Some(pre_name(bpe)?.into());
            let text = |id: u32| to_text(bpe.vocabulary().bytes(id));
            let merge = |m: &Merge| format!("{} {}", text(m.left), text(m.right)).into();
            gguf.merges = bpe.merges().ordered().iter().map(merge).collect();
            gguf.add_space_prefix = Some(false);
        }
        Model::Pieces(pieces) => {
            gguf.model = "llama".into();
            if pieces.split_words() && pieces.spans_spaces() {
                return Err(
                    "the tokenizer lets no piece cross a space (Metaspace with `split`), which GGUF cannot \
                            say; keep the model in safetensors"
                        .into(),
                );
            }
            gguf.scores = pieces.scores(tokenizer.vocab_size());
            gguf.unknown = unknown;
            gguf.add_space_prefix = Some(pieces.prefix() != SpacePrefix::Never);
        }
    }
    Ok(gguf)
}

fn pre_name(bpe: &Bpe) -> Result<&'static str, String> {
    let whole = bpe.rules().whole_pieces && bpe.has_irregular();
    let name = match bpe.rules().split.steps() {
        [Step::Llama3] if bpe.rules().whole_pieces => return Ok("llama-bpe"),
        [Step::Llama3] => "dbrx",
        [Step::Gpt2] => "gpt-2",
        [Step::Digits { individual: true }, Step::Gpt2] => "smollm",
        [Step::Pattern(pattern)] if pattern.source() == QWEN2_PATTERN => "qwen2",
        [Step::Pattern(_), Step::Gpt2, Step::Pattern(_), Step::Pattern(_)] => "default",
        _ => {
            return Err(format!(
                "the tokenizer splits text by a rule that GGUF has no name for ({NAMES} it has); keep the model in \
                 safetensors"
            ));
        }
    };
    if whole {
        return Err(format!(
            "GGUF's split rule {name:?} does not take whole pieces (`ignore_merges`), on which this tokenizer \
             relies; keep the model in safetensors"
        ));
    }
    Ok(name)
}

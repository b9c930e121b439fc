//! Which of the many rules of `tokenizer.json` a file uses. What this program would encode differently from the
//! file's author is refused by name.

use crate::sentence_piece::{SPACE, SpacePrefix};
use crate::split::{Split, Step};
use serde_json::Value;

/// The two kinds of BPE.
pub(super) enum Family {
    /// Over bytes, as GPT-2 and Llama 3.
    Bytes { split: Split, prefix_space: bool },
    /// Over characters, as Llama 2.
    Pieces { prefix: SpacePrefix, split_words: bool },
}

/// Normalizer, pre-tokenizer and model together.
pub(super) fn family(
    normalizer: &Value,
    pre_tokenizer: &Value,
    byte_fallback: bool,
) -> Result<Family, String> {
    let steps = sequence(pre_tokenizer, "pretokenizers");
    if byte_fallback || steps.iter().any(|step| step["type"] == "Metaspace") {
        return pieces(normalizer, &steps);
    }
    if let Some(first) = sequence(normalizer, "normalizers").first() {
        return Err(format!(
            "normalizer: {} is not supported for a byte-level tokenizer; null is",
            first["type"]
        ));
    }
    let (mut cuts, mut byte_level) = (Vec::new(), None);
    for (at, step) in steps.iter().enumerate() {
        if byte_level.is_some() {
            return Err(format!("pre_tokenizer: {} after ByteLevel is not supported", step["type"]));
        }
        match step["type"].as_str() {
            Some("Split") => cuts.push(split(step)?),
            Some("Digits") => {
                cuts.push(Step::Digits { individual: step["individual_digits"].as_bool().unwrap_or(false) });
            }
            Some("ByteLevel") => {
                let prefix_space = step["add_prefix_space"].as_bool().unwrap_or(true);
                if prefix_space && at > 0 {
                    return Err(
                        "pre_tokenizer: ByteLevel with add_prefix_space after other steps is not supported"
                            .into(),
                    );
                }
                if step["use_regex"].as_bool().unwrap_or(true) {
                    cuts.push(Step::Gpt2);
                }
                byte_level = Some(prefix_space);
            }
            _ => {
                return Err(format!(
                    "pre_tokenizer: {} is not supported; Split, Digits, ByteLevel and Metaspace are",
                    step["type"]
                ));
            }
        }
    }
    let prefix_space = byte_level.ok_or("pre_tokenizer: must end with ByteLevel, or be Metaspace")?;
    Ok(Family::Bytes { split: Split::of(cuts), prefix_space })
}

/// The steps of a `Sequence`, or the only one; none for null.
fn sequence<'v>(value: &'v Value, field: &str) -> Vec<&'v Value> {
    match (&value[field], value) {
        (_, Value::Null) => Vec::new(),
        (Value::Array(steps), _) => steps.iter().flat_map(|step| sequence(step, field)).collect(),
        _ => vec![value],
    }
}

fn split(step: &Value) -> Result<Step, String> {
    let Some(pattern) = step["pattern"]["Regex"].as_str() else {
        return Err(format!(
            "pre_tokenizer: Split by {} is not supported; by a Regex it is",
            step["pattern"]
        ));
    };
    let (behavior, invert) = (step["behavior"].as_str(), step["invert"].as_bool().unwrap_or(false));
    let step = Step::of_pattern(pattern).map_err(|e| format!("pre_tokenizer: {e}"))?;
    match (behavior, invert) {
        (Some("Isolated"), _) => Ok(step),
        // Keeps only what matches: for patterns that match everything that is the same.
        (Some("Removed"), true) if !matches!(step, Step::Pattern(_)) => Ok(step),
        _ => Err(format!(
            "pre_tokenizer: Split with behavior {behavior:?} and invert {invert} is not supported; \"Isolated\" is"
        )),
    }
}

fn pieces(normalizer: &Value, steps: &[&Value]) -> Result<Family, String> {
    let (mut prefix, mut split_words, mut replaced) = (SpacePrefix::Never, false, false);
    let space = SPACE.to_string();
    for step in sequence(normalizer, "normalizers") {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == space => prefix = SpacePrefix::Always,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == space => {
                replaced = true
            }
            _ => {
                return Err(format!(
                    "normalizer: {step} is not supported; Prepend of {SPACE:?} and Replace of \" \" by it are"
                ));
            }
        }
    }
    for step in steps {
        if step["type"] != "Metaspace" {
            return Err(format!(
                "pre_tokenizer: {} is not supported for a vocabulary with byte_fallback; Metaspace and null are",
                step["type"]
            ));
        }
        if step["replacement"] != space {
            return Err(format!("pre_tokenizer: Metaspace must replace spaces by {SPACE:?}"));
        }
        let scheme = step["prepend_scheme"].as_str();
        let scheme = scheme.unwrap_or(match step["add_prefix_space"].as_bool() {
            Some(false) => "never",
            _ => "always",
        });
        let own = match scheme {
            "always" => SpacePrefix::UnlessSpace,
            "first" => SpacePrefix::First,
            "never" => SpacePrefix::Never,
            other => return Err(format!("pre_tokenizer: Metaspace has prepend_scheme {other:?}")),
        };
        // A prefix of the normalizer comes first, and then there is one already.
        if prefix == SpacePrefix::Never {
            prefix = own;
        }
        split_words = step["split"].as_bool().unwrap_or(true);
        replaced = true;
    }
    if !replaced {
        return Err(format!(
            "normalizer: must replace \" \" by {SPACE:?}, or the pre_tokenizer be Metaspace"
        ));
    }
    Ok(Family::Pieces { prefix, split_words })
}

/// Name of the token that the post-processor puts before a text.
pub(super) fn begin(post_processor: &Value) -> Option<&str> {
    let steps = sequence(post_processor, "processors");
    let template = steps.iter().find(|step| step["type"] == "TemplateProcessing")?;
    template["single"].get(0)?["SpecialToken"]["id"].as_str()
}

use herd_infer::Device;
use herd_run::SettingError;
use herd_train::needle::NeedleKind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to measure, and on how much. Table `[eval]` of a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Seed of the choice of documents and examples, and of the bootstrap.
    pub seed: u64,
    /// Rows of one forward pass.
    pub batch_rows: usize,
    /// Bits per byte on held-out documents.
    pub bits_per_byte: BitsPerByteSettings,
    /// Needle in a haystack.
    pub needle: NeedleSettings,
    /// Multiple choice.
    pub choices: ChoiceSettings,
    /// Held-out instructions, answered greedily.
    pub instructions: InstructionSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            batch_rows: 4096,
            bits_per_byte: BitsPerByteSettings::default(),
            needle: NeedleSettings::default(),
            choices: ChoiceSettings::default(),
            instructions: InstructionSettings::default(),
        }
    }
}

/// Bits per byte on held-out documents, beside n-gram models. Table `[eval.bits_per_byte]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BitsPerByteSettings {
    /// Documents are drawn from each domain until they hold this many tokens.
    pub tokens_per_domain: usize,
    /// A longer document is cut to its first tokens, so that one book does not stand for a domain.
    pub tokens_per_document: usize,
    /// Tokens in one window of the Transformer (its longest context at most). Windows of a longer document overlap
    /// by half, and a token is scored once, with at least half a window before it.
    pub context: usize,
}

impl Default for BitsPerByteSettings {
    fn default() -> Self {
        Self { tokens_per_domain: 20_000, tokens_per_document: 2048, context: 1024 }
    }
}

/// Needle recall by depth and length. Table `[eval.needle]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NeedleSettings {
    /// What the needle says; as in pre-training.
    pub kind: NeedleKind,
    /// Lengths in tokens; those above the model's longest context are left out.
    pub lengths: Vec<usize>,
    /// Depths, evenly from the beginning to the end.
    pub depths: usize,
    /// Cases for each length and depth; 0 leaves the test out.
    pub cases: usize,
}

impl Default for NeedleSettings {
    fn default() -> Self {
        Self { kind: NeedleKind::default(), lengths: vec![128, 256, 512, 1024, 2048], depths: 5, cases: 4 }
    }
}

/// Multiple choice. Table `[eval.choices]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChoiceSettings {
    /// Examples of each task made from held-out documents; 0 leaves them out.
    pub examples: usize,
    /// Choices of such an example, one of them true.
    pub choices: usize,
    /// Tokens of the passage to be continued.
    pub passage: usize,
    /// Tokens of each continuation.
    pub continuation: usize,
    /// Files of further examples (JSON Lines), or folders of such files.
    pub files: Vec<PathBuf>,
}

impl Default for ChoiceSettings {
    fn default() -> Self {
        Self { examples: 200, choices: 4, passage: 64, continuation: 24, files: Vec::new() }
    }
}

/// Held-out instructions. Table `[eval.instructions]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InstructionSettings {
    /// File of dialogs (JSON Lines, the format of alignment); absent leaves the test out.
    pub file: Option<PathBuf>,
    /// Examples at most, drawn by the seed.
    pub examples: usize,
    /// Tokens of an answer at most.
    pub max_tokens: usize,
    /// Where the answers are computed.
    #[serde(skip_serializing_if = "Device::is_cpu")]
    pub device: Device,
}

impl Default for InstructionSettings {
    fn default() -> Self {
        Self { file: None, examples: 300, max_tokens: 64, device: Device::Cpu }
    }
}

impl Settings {
    /// Checks what can be checked without files. Keys are relative to `[eval]`.
    pub fn validate(&self) -> Result<(), SettingError> {
        let at_least = |key: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => {
                Err(SettingError::new(key, format!("{value} is too small; it must be at least {least}")))
            }
        };
        at_least("batch_rows", self.batch_rows, 16)?;
        at_least("bits_per_byte.tokens_per_domain", self.bits_per_byte.tokens_per_domain, 1)?;
        at_least("bits_per_byte.tokens_per_document", self.bits_per_byte.tokens_per_document, 2)?;
        at_least("bits_per_byte.context", self.bits_per_byte.context, 4)?;
        for &length in &self.needle.lengths {
            at_least("needle.lengths", length, 64)?;
        }
        at_least("needle.depths", self.needle.depths, 1)?;
        at_least("choices.choices", self.choices.choices, 2)?;
        at_least("choices.passage", self.choices.passage, 1)?;
        at_least("choices.continuation", self.choices.continuation, 1)?;
        at_least("instructions.max_tokens", self.instructions.max_tokens, 1)?;
        if self.choices.choices > 26 {
            return Err(SettingError::new(
                "choices.choices",
                "at most 26 choices can be told apart by a letter",
            ));
        }
        Ok(())
    }
}

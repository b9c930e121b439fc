//! What is in a checkpoint: tensors, number types, sizes, and the memory that it will take.

use crate::{Checkpoint, Error, Format, StoredTensor};
use herd_infer::gguf::Value;
use herd_model::LlamaConfig;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::path::{Path, PathBuf};

/// All that [`inspect`] found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The file or folder.
    pub path: PathBuf,
    /// "gguf" or "safetensors".
    pub format: &'static str,
    /// What the files call the architecture.
    pub architecture: Option<String>,
    /// The model's name, if the file has one.
    pub name: Option<String>,
    /// Sizes of a Llama.
    pub shape: Option<Shape>,
    /// Why the model cannot be opened, if it cannot.
    pub problem: Option<String>,
    /// The tokenizer, or why it cannot be used.
    pub tokenizer: Tokens,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Size of all tensors in the file, bytes.
    pub bytes: u64,
    /// Number types, the largest first.
    pub types: Vec<Count>,
    /// Tensors of the same name in all layers, in one line each.
    pub kinds: Vec<Count>,
    /// Every tensor, if asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<One>,
    /// Memory of the key/value cache for one sequence.
    pub cache: Vec<Cache>,
}

/// Sizes of a Llama.
#[derive(Debug, Clone, Serialize)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Longest sequence, tokens.
    pub context: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether Llama 3.1's frequency scaling is on.
    pub rope_scaled: bool,
    /// Whether the embedding gives the logits also.
    pub tied: bool,
}

/// What is known of the tokenizer.
#[derive(Debug, Clone, Serialize)]
pub struct Tokens {
    /// Tokens, if it can be used.
    pub tokens: Option<usize>,
    /// Whether it has a chat template.
    pub chat_template: bool,
    /// Why it cannot be used.
    pub problem: Option<String>,
}

/// Tensors that have something in common.
#[derive(Debug, Clone, Serialize)]
pub struct Count {
    /// What they have in common; `*` stands for the number of the layer.
    pub name: String,
    /// Number types among them.
    pub types: String,
    /// Shape of the first, rows first.
    pub shape: Vec<usize>,
    /// How many.
    pub tensors: u64,
    /// Numbers in them.
    pub parameters: u64,
    /// Their size, bytes.
    pub bytes: u64,
}

/// One tensor.
#[derive(Debug, Clone, Serialize)]
pub struct One {
    /// Its name.
    pub name: String,
    /// Its number type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// Its size, bytes; `null` if the type is unknown.
    pub bytes: Option<u64>,
}

/// Memory of the cache for one sequence.
#[derive(Debug, Clone, Serialize)]
pub struct Cache {
    /// Length of the sequence, tokens.
    pub context: usize,
    /// Bytes with 32-bit numbers.
    pub f32_bytes: u64,
    /// Bytes with 16-bit numbers.
    pub f16_bytes: u64,
}

/// Looks into a checkpoint of any architecture; with `all`, lists every tensor.
///
/// # Errors
/// The files cannot be read at all. A model that is no Llama, or a tokenizer of an unknown kind, is part of the
/// report.
pub fn inspect(path: &Path, all: bool) -> Result<Report, Error> {
    let checkpoint = Checkpoint::open(path)?;
    let tensors = checkpoint.tensors();
    let config = checkpoint.config();
    let text = |key: &str| match checkpoint.gguf()?.metadata.get(key) {
        Some(Value::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let architecture = match checkpoint.format() {
        Format::Gguf => text("general.architecture"),
        Format::Safetensors => model_type(path),
    };
    let tokenizer = match checkpoint.tokenizer() {
        Ok(tokenizer) => Tokens {
            tokens: Some(tokenizer.vocab_size()),
            chat_template: !tokenizer.chat_template().is_empty(),
            problem: None,
        },
        Err(error) => Tokens { tokens: None, chat_template: false, problem: Some(error.to_string()) },
    };
    let mut types: Vec<Count> = grouped(&tensors, |t| t.kind.name().to_string());
    types.sort_by_key(|count| std::cmp::Reverse(count.bytes));
    Ok(Report {
        path: path.to_path_buf(),
        format: if checkpoint.format() == Format::Gguf { "gguf" } else { "safetensors" },
        architecture,
        name: text("general.name"),
        shape: config.ok().map(Shape::of),
        problem: config.err().map(str::to_string).or_else(|| unread(&tensors)),
        tokenizer,
        parameters: tensors.iter().map(StoredTensor::numbers).fold(0, u64::saturating_add),
        bytes: tensors.iter().filter_map(|t| t.bytes).fold(0, u64::saturating_add),
        types,
        kinds: grouped(&tensors, |t| without_layer(&t.name)),
        tensors: match all {
            true => tensors.iter().map(One::of).collect(),
            false => Vec::new(),
        },
        cache: config.ok().map(caches).unwrap_or_default(),
    })
}

/// `model_type` of a folder's `config.json`, whatever else stands in it.
fn model_type(path: &Path) -> Option<String> {
    let folder = if path.is_dir() { path } else { path.parent()? };
    let config: serde_json::Value = herd_run::atomic::read_json(&folder.join("config.json")).ok()?;
    Some(config["model_type"].as_str()?.to_string())
}

/// What is wrong with tensors whose type is not read.
fn unread(tensors: &[StoredTensor]) -> Option<String> {
    let tensor = tensors.iter().find(|t| t.bytes.is_none())?;
    Some(format!("tensor {} is of type {}, which is not read", tensor.name, tensor.kind.name()))
}

/// The name with `*` for the number of the layer.
fn without_layer(name: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').map(|part| if number(part) { "*" } else { part }).collect();
    parts.join(".")
}

fn grouped(tensors: &[StoredTensor], key: impl Fn(&StoredTensor) -> String) -> Vec<Count> {
    let mut groups: BTreeMap<String, Vec<&StoredTensor>> = BTreeMap::new();
    for tensor in tensors {
        groups.entry(key(tensor)).or_default().push(tensor);
    }
    let count = |(name, list): (String, Vec<&StoredTensor>)| {
        let mut types: Vec<&str> = list.iter().map(|t| t.kind.name()).collect();
        types.sort_unstable();
        types.dedup();
        Count {
            types: types.join(", "),
            shape: list[0].shape.clone(),
            tensors: list.len() as u64,
            parameters: list.iter().map(|t| t.numbers()).fold(0, u64::saturating_add),
            bytes: list.iter().filter_map(|t| t.bytes).fold(0, u64::saturating_add),
            name,
        }
    };
    groups.into_iter().map(count).collect()
}

fn caches(c: &LlamaConfig) -> Vec<Cache> {
    let mut contexts: Vec<usize> = [2048, 8192, 32_768, c.max_position_embeddings]
        .into_iter()
        .filter(|&context| context <= c.max_position_embeddings)
        .collect();
    contexts.sort_unstable();
    contexts.dedup();
    let numbers = 2 * (c.num_hidden_layers * c.num_key_value_heads * c.head_dim) as u64;
    let of = |context: usize| {
        let all = numbers * context as u64;
        Cache { context, f32_bytes: 4 * all, f16_bytes: 2 * all }
    };
    contexts.into_iter().map(of).collect()
}

impl Shape {
    fn of(c: &LlamaConfig) -> Self {
        Self {
            layers: c.num_hidden_layers,
            hidden: c.hidden_size,
            feed_forward: c.intermediate_size,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            vocabulary: c.vocab_size,
            context: c.max_position_embeddings,
            rope_theta: c.rope_theta,
            rope_scaled: c.rope_scaling.is_some(),
            tied: c.tie_word_embeddings,
        }
    }
}

/// Size of what has a type that is not read.
const UNKNOWN: &str = "?";

impl Count {
    /// Its size; [`UNKNOWN`] for tensors of a type that is not read.
    fn size(&self) -> String {
        if self.bytes == 0 && self.parameters > 0 { UNKNOWN.to_string() } else { size(self.bytes) }
    }
}

impl One {
    fn of(tensor: &StoredTensor) -> Self {
        Self {
            name: tensor.name.clone(),
            kind: tensor.kind.name().to_string(),
            shape: tensor.shape.clone(),
            bytes: tensor.bytes,
        }
    }
}

/// `1234567` as `1.2 MB`.
fn size(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// `1234567` as `1.23M`.
fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.1}K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}M", n as f64 / 1e6),
        _ => format!("{:.2}B", n as f64 / 1e9),
    }
}

fn shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

/// Columns as wide as their widest cell; numbers (all but the first `left` columns) to the right.
fn table(out: &mut String, rows: &[Vec<String>], left: usize) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |at: usize| rows.iter().filter_map(|r| r.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| match at < left {
            true => format!("{cell:width$}"),
            false => format!("{cell:>width$}"),
        });
        writeln!(out, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let mut out = String::new();
        let row = |name: &str, value: String| vec![name.to_string(), value];
        let mut head = vec![
            row("format", self.format.to_string()),
            row("architecture", self.architecture.clone().unwrap_or("unknown".into())),
        ];
        head.extend(self.name.clone().map(|name| row("name", name)));
        head.push(row("parameters", count(self.parameters)));
        let bits = self.bytes as f64 * 8.0 / self.parameters.max(1) as f64;
        let weights = match self.types.iter().any(|t| t.size() == UNKNOWN) {
            false => format!("{} ({bits:.2} bits each)", size(self.bytes)),
            true => format!("{} and those of a type that is not read", size(self.bytes)),
        };
        head.push(row("weights", weights));
        if let Some(s) = &self.shape {
            let tied = if s.tied { ", tied" } else { "" };
            head.push(row(
                "layers",
                format!("{} of width {}, feed-forward {}", s.layers, s.hidden, s.feed_forward),
            ));
            head.push(row(
                "heads",
                format!("{} of {}, {} for keys and values", s.heads, s.head_dim, s.kv_heads),
            ));
            head.push(row("vocabulary", format!("{}{tied}", s.vocabulary)));
            let scaled = if s.rope_scaled { ", scaled as Llama 3.1's" } else { "" };
            head.push(row("context", format!("{} tokens, rope {}{scaled}", s.context, s.rope_theta)));
        }
        let template = if self.tokenizer.chat_template { "with" } else { "without" };
        head.push(row(
            "tokenizer",
            match (&self.tokenizer.tokens, &self.tokenizer.problem) {
                (Some(tokens), _) => format!("{tokens} tokens, {template} a chat template"),
                (None, problem) => problem.clone().unwrap_or_default(),
            },
        ));
        head.extend(self.problem.clone().map(|problem| row("cannot be opened", problem)));
        writeln!(out, "{}", self.path.display())?;
        table(&mut out, &head, 2)?;

        let title = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        let mut types = vec![title(&["type", "tensors", "parameters", "size"])];
        types.extend(
            self.types
                .iter()
                .map(|t| vec![t.name.clone(), t.tensors.to_string(), count(t.parameters), t.size()]),
        );
        writeln!(out)?;
        table(&mut out, &types, 1)?;

        writeln!(out)?;
        if self.tensors.is_empty() {
            let mut kinds = vec![title(&["tensor", "type", "shape", "tensors", "parameters", "size"])];
            kinds.extend(self.kinds.iter().map(|k| {
                let numbers = [k.tensors.to_string(), count(k.parameters), k.size()];
                [k.name.clone(), k.types.clone(), shape(&k.shape)].into_iter().chain(numbers).collect()
            }));
            table(&mut out, &kinds, 3)?;
        } else {
            let mut all = vec![title(&["tensor", "type", "shape", "size"])];
            all.extend(self.tensors.iter().map(|t| {
                vec![t.name.clone(), t.kind.clone(), shape(&t.shape), t.bytes.map_or(UNKNOWN.into(), size)]
            }));
            table(&mut out, &all, 3)?;
        }

        if !self.cache.is_empty() {
            // The cache is f32 where the weights are, unless told otherwise.
            let all_f32 = self.types.iter().all(|t| t.name == "F32");
            let with_weights = if all_f32 { "with weights (f32)" } else { "with weights (f16)" };
            let mut cache =
                vec![title(&["memory of one sequence", "cache (f32)", "cache (f16)", with_weights])];
            cache.extend(self.cache.iter().map(|c| {
                let tokens = format!("{} tokens", c.context);
                let with_weights = self.bytes + if all_f32 { c.f32_bytes } else { c.f16_bytes };
                vec![tokens, size(c.f32_bytes), size(c.f16_bytes), size(with_weights)]
            }));
            writeln!(out)?;
            table(&mut out, &cache, 1)?;
        }
        f.write_str(out.trim_end())
    }
}

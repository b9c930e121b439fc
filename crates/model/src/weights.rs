//! Weights in and out: `config.json` and `model.safetensors` (or an index with shards) under Hugging Face's names.
//!
//! Herd stores query, key and value as one matrix, and gate and up as another; each Hugging Face tensor is a range of
//! rows of one of ours, so both directions copy whole ranges. Rotary halves are stored as Hugging Face does
//! ("half-split"), so nothing is permuted.

use crate::config::{ConfigError, LlamaConfig, TorchDtype};
use crate::files::TensorFiles;
use crate::llama::{Head, Llama};
use half::{bf16, f16};
use herd_run::atomic::{self, FileError};
use herd_tensor::{ParamId, Params};
use rayon::prelude::*;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Why weights cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The configuration is unusable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is not safetensors, or is cut off.
    #[error("{}: not a complete safetensors file: {problem} (fetch or export it again)", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader met.
        problem: String,
    },
    /// A tensor of the model is in no file.
    #[error("{}: tensor `{name}` is missing; config.json asks for it", path.display())]
    Missing {
        /// The file or folder searched.
        path: PathBuf,
        /// Hugging Face's name.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{}: tensor `{name}` has shape {found:?}, config.json asks for {expected:?}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Hugging Face's name.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has a number format that is not read.
    #[error("{}: tensor `{name}` is {found}; F32, F16 and BF16 are read", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// Hugging Face's name.
        name: String,
        /// Its format.
        found: String,
    },
    /// A tensor belongs to no part of this model, so the model would compute something else.
    #[error("{}: tensor `{name}` is not part of a Llama; is this another architecture?", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
    /// A weight is not a finite number.
    #[error("{}: tensor `{name}` holds NaN or infinity at element {index}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// Hugging Face's name.
        name: String,
        /// First such element.
        index: usize,
    },
}

/// One Hugging Face tensor: which rows of which parameter it is.
struct Piece {
    name: String,
    param: ParamId,
    rows: Range<usize>,
    shape: Vec<usize>,
}

/// Every tensor of the model in the order of the layers.
fn pieces(llama: &Llama) -> Vec<Piece> {
    let c = &llama.config;
    let (d, f) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let mut all = Vec::new();
    let mut add = |name: String, param, rows: Range<usize>, columns: Option<usize>| {
        let shape = std::iter::once(rows.len()).chain(columns).collect();
        all.push(Piece { name, param, rows, shape });
    };
    add("model.embed_tokens.weight".into(), llama.embed, 0..c.vocab_size, Some(d));
    for (i, layer) in llama.layers.iter().enumerate() {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        add(name("input_layernorm"), layer.attn_norm, 0..d, None);
        add(name("self_attn.q_proj"), layer.wqkv, 0..q, Some(d));
        add(name("self_attn.k_proj"), layer.wqkv, q..q + kv, Some(d));
        add(name("self_attn.v_proj"), layer.wqkv, q + kv..q + 2 * kv, Some(d));
        add(name("self_attn.o_proj"), layer.wo, 0..d, Some(q));
        add(name("post_attention_layernorm"), layer.ffn_norm, 0..d, None);
        add(name("mlp.gate_proj"), layer.w_gate_up, 0..f, Some(d));
        add(name("mlp.up_proj"), layer.w_gate_up, f..2 * f, Some(d));
        add(name("mlp.down_proj"), layer.w_down, 0..d, Some(f));
    }
    add("model.norm.weight".into(), llama.norm, 0..d, None);
    match llama.head_kind {
        Head::Reward => add("score.weight".into(), llama.head(), 0..1, Some(d)),
        Head::Language if c.tie_word_embeddings => {}
        Head::Language => add("lm_head.weight".into(), llama.head(), 0..c.vocab_size, Some(d)),
    }
    all
}

impl Piece {
    /// Range of this tensor's numbers inside its parameter.
    fn numbers(&self) -> Range<usize> {
        let columns: usize = self.shape[1..].iter().product();
        self.rows.start * columns..self.rows.end * columns
    }
}

/// One tensor about to be written in `dtype`.
struct Outgoing<'a> {
    shape: &'a [usize],
    numbers: &'a [f32],
    dtype: TorchDtype,
}

impl View for Outgoing<'_> {
    fn dtype(&self) -> Dtype {
        match self.dtype {
            TorchDtype::Float32 => Dtype::F32,
            TorchDtype::Bfloat16 => Dtype::BF16,
            TorchDtype::Float16 => Dtype::F16,
        }
    }
    fn shape(&self) -> &[usize] {
        self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self.dtype {
            TorchDtype::Float32 => self.numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
            TorchDtype::Bfloat16 => {
                self.numbers.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
            }
            TorchDtype::Float16 => {
                self.numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
            }
        })
    }
    fn data_len(&self) -> usize {
        self.numbers.len() * if self.dtype == TorchDtype::Float32 { 4 } else { 2 }
    }
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors` into `dir`, each complete or not at all.
/// Numbers are written in the configuration's `torch_dtype`.
pub fn save(dir: &Path, llama: &Llama, params: &Params) -> Result<(), WeightsError> {
    let path = dir.join("model.safetensors");
    let pieces = pieces(llama);
    let views = pieces.iter().map(|p| {
        let numbers = &params.value(p.param)[p.numbers()];
        (p.name.as_str(), Outgoing { shape: &p.shape, numbers, dtype: llama.config.torch_dtype })
    });
    std::fs::create_dir_all(dir).map_err(FileError::at("create", dir))?;
    let scratch = dir.join(".model.safetensors.tmp");
    // Transformers looks for this key to know how the file was made.
    let metadata = Some([("format".to_string(), "pt".to_string())].into());
    safetensors::serialize_to_file(views, metadata, &scratch)
        .map_err(|e| FileError::at("write", &path)(io::Error::other(e)))?;
    File::open(&scratch).and_then(|f| f.sync_all()).map_err(FileError::at("sync", &path))?;
    atomic::commit(&scratch, &path)?;
    let architecture = match llama.head_kind {
        Head::Language => "LlamaForCausalLM",
        Head::Reward => "LlamaForSequenceClassification",
    };
    let mut config = llama.config.to_json(architecture);
    if llama.head_kind == Head::Reward {
        config["num_labels"] = 1.into();
        config["id2label"] = serde_json::json!({"0": "LABEL_0"});
        config["label2id"] = serde_json::json!({"LABEL_0": 0});
    }
    let generation = serde_json::json!({
        "bos_token_id": llama.config.bos_token_id,
        "eos_token_id": llama.config.eos_token_ids,
        "do_sample": true,
        "temperature": 0.6,
        "top_p": 0.9,
    });
    atomic::write_json(&dir.join("generation_config.json"), &generation)?;
    Ok(atomic::write_json(&dir.join("config.json"), &config)?)
}

/// Opens a Hugging Face folder: configuration and weights, as f32. Every tensor must be there, of the right shape,
/// and finite; none may be left over.
pub fn load(dir: &Path) -> Result<(Llama, Params), WeightsError> {
    let config = LlamaConfig::read(dir)?;
    config.without_bias(&dir.join("config.json").display().to_string())?;
    let files = TensorFiles::open(dir)?;
    // The file bounds the sizes that memory is taken for.
    let c = &config;
    files.expect("model.embed_tokens.weight", &[c.vocab_size, c.hidden_size])?;
    let last = format!("model.layers.{}", c.num_hidden_layers - 1);
    files.expect(&format!("{last}.input_layernorm.weight"), &[c.hidden_size])?;
    files.expect(
        &format!("{last}.self_attn.q_proj.weight"),
        &[c.num_attention_heads * c.head_dim, c.hidden_size],
    )?;
    let head = if files.get("score.weight").is_some() { Head::Reward } else { Head::Language };
    let llama = Llama::with_head(config, head);
    let pieces = pieces(&llama);
    check_known(&files, |name| pieces.iter().any(|piece| piece.name == name))?;
    // All sizes are checked against the files before memory is taken for them.
    for piece in &pieces {
        files.expect(&piece.name, &piece.shape)?;
    }
    let mut params = llama.params();
    for piece in &pieces {
        let stored = files.expect(&piece.name, &piece.shape)?;
        let to = &mut params.value_mut(piece.param)[piece.numbers()];
        stored.copy_to(0, to);
        if let Some(index) = to.par_iter().position_first(|x| !x.is_finite()) {
            return Err(stored.not_finite(&piece.name, index));
        }
    }
    Ok((llama, params))
}

/// Refuses a tensor that belongs to no part of the model.
///
/// # Errors
/// The first name that `known` does not know and that does not follow from the rest.
pub fn check_known(files: &TensorFiles, known: impl Fn(&str) -> bool) -> Result<(), WeightsError> {
    match files.names().find(|name| !known(name) && !redundant(name)) {
        None => Ok(()),
        Some(name) => {
            let path = files.get(name).map(|tensor| tensor.path.to_path_buf()).unwrap_or_default();
            Err(WeightsError::Unexpected { path, name: name.to_string() })
        }
    }
}

/// Tensors that older exporters add and that follow from the rest: the rotary frequencies, and the output matrix of
/// a tied model.
fn redundant(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name == "lm_head.weight"
}

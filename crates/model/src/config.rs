//! `config.json` of a Llama, as Hugging Face writes it: Llama 2, 3, 3.1, 3.2 and 3.3, from Transformers 4 and 5.

use herd_run::atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Longest context that is believed; a larger one comes from a damaged file.
const MAX_CONTEXT: usize = 1 << 20;

/// Widest head that is believed.
const MAX_HEAD_DIM: usize = 1024;

/// Everything that decides the shape and the arithmetic of a Llama. Fields bear Hugging Face's names.
#[derive(Debug, Clone, PartialEq)]
pub struct LlamaConfig {
    /// Tokens in the vocabulary, the special ones included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward network.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key/value heads.
    pub num_key_value_heads: usize,
    /// Numbers in a head; `hidden_size / num_attention_heads` unless the file says otherwise.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequency scaling of Llama 3.1.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output matrix is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Whether the projections of the attention add a bias.
    pub attention_bias: bool,
    /// Longest context, tokens.
    pub max_position_embeddings: usize,
    /// Standard deviation of the initial weights.
    pub initializer_range: f32,
    /// Token that begins a text.
    pub bos_token_id: u32,
    /// Tokens that end a generation.
    pub eos_token_ids: Vec<u32>,
    /// Type in which the weights are written.
    pub torch_dtype: TorchDtype,
}

/// Frequency scaling of Llama 3.1 (`rope_type` "llama3"): long wavelengths are stretched by `factor`, short ones
/// kept, those between interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// How much the context grows.
    pub factor: f64,
    /// Wavelengths above `original / low_freq_factor` are stretched.
    pub low_freq_factor: f64,
    /// Wavelengths below `original / high_freq_factor` are kept.
    pub high_freq_factor: f64,
    /// Context before scaling, tokens.
    pub original_max_position_embeddings: usize,
}

/// Number format of stored weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TorchDtype {
    /// 32-bit.
    #[default]
    Float32,
    /// 16-bit with the exponent of 32-bit.
    Bfloat16,
    /// IEEE 16-bit.
    Float16,
}

impl TorchDtype {
    /// The name that Hugging Face's files use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read or is not JSON.
    #[error(transparent)]
    File(#[from] atomic::FileError),
    /// A field is missing, has the wrong type or a value that this program does not support.
    #[error("{file}: `{field}` {problem}")]
    Field {
        /// The file.
        file: String,
        /// The field's name.
        field: String,
        /// What is wrong and what is supported.
        problem: String,
    },
}

/// The fields of one JSON object, with errors that name file and field.
struct Fields<'a> {
    file: &'a str,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn wrong(&self, field: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Field { file: self.file.to_string(), field: field.to_string(), problem: problem.into() }
    }

    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|v| !v.is_null())
    }

    fn size(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        self.get(field)
            .map(|v| match v.as_u64() {
                Some(n) if n > 0 && n < 1 << 31 => Ok(n as usize),
                _ => Err(self.wrong(field, format!("is {v}, expected a positive integer below 2^31"))),
            })
            .transpose()
    }

    fn number(&self, field: &str) -> Result<Option<f64>, ConfigError> {
        self.get(field)
            .map(|v| match v.as_f64() {
                Some(x) if x > 0.0 && x.is_finite() => Ok(x),
                _ => Err(self.wrong(field, format!("is {v}, expected a positive number"))),
            })
            .transpose()
    }

    fn required<T>(&self, field: &str, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.wrong(field, "is missing"))
    }
}

impl LlamaConfig {
    /// Reads `config.json` in `dir`.
    pub fn read(dir: &Path) -> Result<Self, ConfigError> {
        let path = dir.join("config.json");
        let value: Value = atomic::read_json(&path)?;
        Self::from_json(&value, &path.display().to_string())
    }

    /// Reads a configuration from JSON; `file` is named in errors.
    pub fn from_json(value: &Value, file: &str) -> Result<Self, ConfigError> {
        let empty = Map::new();
        let f = Fields { file, map: value.as_object().unwrap_or(&empty) };
        match f.get("model_type").and_then(Value::as_str) {
            Some("llama") => {}
            Some(other) => {
                return Err(f.wrong("model_type", format!("is \"{other}\", only \"llama\" is supported")));
            }
            None => return Err(f.wrong("model_type", "is missing, expected \"llama\"")),
        }
        if f.get("mlp_bias").and_then(Value::as_bool) == Some(true) {
            return Err(f.wrong("mlp_bias", "is true; a feed-forward network with a bias is not supported"));
        }
        match f.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu") => {}
            Some(other) => {
                return Err(f.wrong("hidden_act", format!("is \"{other}\", only \"silu\" is supported")));
            }
        }
        let hidden_size = f.required("hidden_size", f.size("hidden_size")?)?;
        let heads = f.required("num_attention_heads", f.size("num_attention_heads")?)?;
        let kv_heads = f.size("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match f.size("head_dim")? {
            Some(n) => n,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                return Err(f.wrong(
                    "num_attention_heads",
                    format!("{heads} does not divide hidden_size {hidden_size}"),
                ));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(f.wrong("head_dim", format!("is {head_dim}; rotary embeddings need an even number")));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(f.wrong(
                "num_key_value_heads",
                format!("{kv_heads} does not divide num_attention_heads {heads}"),
            ));
        }
        for (field, value, most) in [
            ("head_dim", head_dim, MAX_HEAD_DIM),
            ("max_position_embeddings", f.size("max_position_embeddings")?.unwrap_or(0), MAX_CONTEXT),
        ] {
            if value > most {
                return Err(f.wrong(field, format!("is {value}; at most {most} is supported")));
            }
        }
        let (rope_theta, rope_scaling) = rope(&f)?;
        let eos_token_ids = match f.get("eos_token_id") {
            None => Vec::new(),
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            Some(id) => id.as_u64().map(|id| id as u32).into_iter().collect(),
        };
        Ok(Self {
            vocab_size: f.required("vocab_size", f.size("vocab_size")?)?,
            hidden_size,
            intermediate_size: f.required("intermediate_size", f.size("intermediate_size")?)?,
            num_hidden_layers: f.required("num_hidden_layers", f.size("num_hidden_layers")?)?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: f.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: f.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false),
            attention_bias: f.get("attention_bias").and_then(Value::as_bool).unwrap_or(false),
            max_position_embeddings: f.size("max_position_embeddings")?.unwrap_or(2048),
            initializer_range: f.number("initializer_range")?.unwrap_or(0.02) as f32,
            bos_token_id: f.get("bos_token_id").and_then(Value::as_u64).unwrap_or(1) as u32,
            eos_token_ids,
            torch_dtype: match f.get("dtype").or(f.get("torch_dtype")).and_then(Value::as_str) {
                Some("bfloat16") => TorchDtype::Bfloat16,
                Some("float16") => TorchDtype::Float16,
                _ => TorchDtype::Float32,
            },
        })
    }

    /// Refuses a model that only inference knows.
    ///
    /// # Errors
    /// Its attention has a bias; `file` is named.
    pub fn without_bias(&self, file: &str) -> Result<(), ConfigError> {
        match self.attention_bias {
            false => Ok(()),
            true => Err(ConfigError::Field {
                file: file.to_string(),
                field: "attention_bias".into(),
                problem: "is true; such a model can be opened and served, but not trained".into(),
            }),
        }
    }

    /// The JSON that Transformers 4 and 5 read. `architecture` names the class, such as `LlamaForCausalLM`.
    pub fn to_json(&self, architecture: &str) -> Value {
        let mut json = json!({
            "architectures": [architecture],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "attention_bias": self.attention_bias,
            "attention_dropout": 0.0,
            "mlp_bias": false,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": null,
            "max_position_embeddings": self.max_position_embeddings,
            "tie_word_embeddings": self.tie_word_embeddings,
            // Written in decimal of its own width: 0.02, not 0.019999999552965164.
            "initializer_range": self.initializer_range.to_string().parse::<f64>().unwrap_or(0.02),
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_ids,
            "use_cache": true,
            "torch_dtype": self.torch_dtype.name(),
        });
        if let Some(s) = &self.rope_scaling {
            json["rope_scaling"] = json!({
                "rope_type": "llama3",
                "factor": s.factor,
                "low_freq_factor": s.low_freq_factor,
                "high_freq_factor": s.high_freq_factor,
                "original_max_position_embeddings": s.original_max_position_embeddings,
            });
        }
        json
    }

    /// Columns of the fused query, key and value projection: `(heads + 2 kv_heads) head_dim`.
    pub fn qkv_width(&self) -> usize {
        (self.num_attention_heads + 2 * self.num_key_value_heads) * self.head_dim
    }

    /// Number of parameters; a tied output matrix counts once.
    pub fn parameters(&self) -> usize {
        let embeddings = self.vocab_size * self.hidden_size * if self.tie_word_embeddings { 1 } else { 2 };
        embeddings + self.num_hidden_layers * self.layer_parameters() + self.hidden_size
    }

    fn layer_parameters(&self) -> usize {
        self.layer_matrix_parameters() + 2 * self.hidden_size
    }

    fn layer_matrix_parameters(&self) -> usize {
        let attention = self.hidden_size * (self.qkv_width() + self.num_attention_heads * self.head_dim);
        attention + 3 * self.hidden_size * self.intermediate_size
    }

    /// Floating-point operations of forward and backward for one token at a context of `context` tokens.
    ///
    /// Convention (SPEC INFRA-1): 6 per weight of every matrix that multiplies (the embedding look-up is none), and
    /// 6 per layer for each of the `context / 2` visible positions and `heads head_dim` numbers, twice (scores and
    /// values): *causal* attention counted once.
    pub fn flops_per_token(&self, context: f64) -> f64 {
        let matrices =
            self.num_hidden_layers * self.layer_matrix_parameters() + self.vocab_size * self.hidden_size;
        let attention = self.num_hidden_layers * self.num_attention_heads * self.head_dim;
        6.0 * matrices as f64 + 6.0 * attention as f64 * context
    }
}

/// `rope_theta` and scaling, from Transformers 4's `rope_theta` + `rope_scaling` or 5's `rope_parameters`.
fn rope(f: &Fields) -> Result<(f64, Option<RopeScaling>), ConfigError> {
    let table =
        ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| Some((key, f.get(key)?.as_object()?)));
    let Some((key, map)) = table else {
        return Ok((f.number("rope_theta")?.unwrap_or(10_000.0), None));
    };
    let inner = Fields { file: f.file, map };
    let theta = match inner.number("rope_theta")? {
        Some(theta) => theta,
        None => f.number("rope_theta")?.unwrap_or(10_000.0),
    };
    match inner.get("rope_type").or(inner.get("type")).and_then(Value::as_str) {
        None | Some("default") => Ok((theta, None)),
        Some("llama3") => Ok((
            theta,
            Some(RopeScaling {
                factor: inner.required("factor", inner.number("factor")?)?,
                low_freq_factor: inner.required("low_freq_factor", inner.number("low_freq_factor")?)?,
                high_freq_factor: inner.required("high_freq_factor", inner.number("high_freq_factor")?)?,
                original_max_position_embeddings: inner.required(
                    "original_max_position_embeddings",
                    inner.size("original_max_position_embeddings")?,
                )?,
            }),
        )),
        Some(other) => {
            Err(f.wrong(key, format!("has type \"{other}\"; \"default\" and \"llama3\" are supported")))
        }
    }
}

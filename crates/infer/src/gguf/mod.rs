//! Llama models in GGUF files, the format of llama.cpp.
//!
//! All types of [`blocks`] are read. llama.cpp stores the rows of query and key
//! so that neighbouring dimensions are rotated together; they are put back into Hugging Face's order.

mod blocks;
mod container;
mod floats;
mod numbers;
mod packed;
mod tokenizer;

use crate::Error;
use crate::weights::Weights;
pub use blocks::BlockType;
pub use container::{Container, TensorEntry, Value};
use herd_model::{Layer, Llama, LlamaConfig, RopeScaling, TorchDtype};
use herd_tensor::{ParamId, Params};
use herd_tokenizer::Tokenizer;
use rayon::prelude::*;
use std::path::Path;
use std::sync::Arc;

/// Longest context that is believed; a larger one comes from a damaged file.
const MAX_CONTEXT: usize = 1 << 20;

/// Whether a file begins as GGUF files do, whatever its name.
pub fn is_gguf(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    path.is_file()
        && std::fs::File::open(path).is_ok_and(|mut f| f.read_exact(&mut magic).is_ok())
        && &magic == b"GGUF"
}

/// Reads a model of architecture `llama`.
///
/// # Errors
/// A file that is cut off, of another architecture, or in a format that is not read; the message names the tensor or
/// the metadata key.
pub fn load(path: &Path) -> Result<(Llama, Params), Error> {
    load_weights(&Container::open(path)?)
}

/// Opens a model with its weights as they are stored and its tokenizer: the one inside the file, or a
/// `tokenizer.json` beside a file without one.
///
/// # Errors
/// As [`load`], and a tokenizer that is missing or of a kind that is not supported.
pub(crate) fn open(path: &Path) -> Result<(LlamaConfig, Weights, Tokenizer), Error> {
    let file = Arc::new(Container::open(path)?);
    let (tokenizer, model) = rayon::join(|| tokenizer_of(&file), || packed::weights(&file));
    let (tokenizer, (config, weights)) = (tokenizer?, model?);
    if tokenizer.vocab_size() > config.vocab_size {
        return Err(file.problem(format!(
            "the tokenizer has {} tokens, the model only {}",
            tokenizer.vocab_size(),
            config.vocab_size
        )));
    }
    Ok((config, weights, tokenizer))
}

fn tokenizer_of(file: &Container) -> Result<Tokenizer, Error> {
    let beside = file.path.with_file_name("tokenizer.json");
    match file.metadata.contains_key("tokenizer.ggml.model") || !beside.exists() {
        true => tokenizer::read(file),
        false => Ok(Tokenizer::load(&beside)?),
    }
}

fn load_weights(file: &Container) -> Result<(Llama, Params), Error> {
    let config = config(file)?;
    // All sizes are checked against the file before memory is taken for them.
    for piece in pieces(&config) {
        locate(file, &piece.name, piece.shape)?;
    }
    check_biases(file, &config)?;
    config.without_bias(&file.path.display().to_string()).map_err(|e| file.problem(e.to_string()))?;
    let llama = Llama::new(config);
    let mut params = llama.params();
    for piece in pieces(&llama.config) {
        let [rows, columns] = piece.shape;
        let whole = params.value_mut(piece.place.id(&llama));
        let out = &mut whole[piece.first_row * columns..(piece.first_row + rows) * columns];
        tensor(file, &piece.name, piece.shape, out)?;
        if let Some(heads) = piece.heads {
            unpermute(out, heads, columns);
        }
    }
    Ok((llama, params))
}

/// Refuses biases of which the forward pass knows nothing.
fn check_biases(file: &Container, c: &LlamaConfig) -> Result<(), Error> {
    let known = ["attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"];
    let is_known = |name: &str| c.attention_bias && known.iter().any(|known| name.ends_with(known));
    match file.tensors.keys().find(|name| name.ends_with(".bias") && !is_known(name)) {
        Some(name) => Err(file.problem(format!("tensor `{name}`: a bias here is not supported"))),
        None => Ok(()),
    }
}

/// The biases of the attention of layer `i`: of queries, keys and values, and of the output; empty if there are none.
fn biases(file: &Container, c: &LlamaConfig, i: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
    if !c.attention_bias {
        return Ok(Default::default());
    }
    let read = |part: &str, length: usize, heads: Option<usize>| {
        let mut out = vec![0.0; length];
        tensor(file, &format!("blk.{i}.attn_{part}.bias"), [1, length], &mut out)?;
        if let Some(heads) = heads {
            unpermute(&mut out, heads, 1);
        }
        Ok::<_, Error>(out)
    };
    let (heads, kv_heads) = (c.num_attention_heads, c.num_key_value_heads);
    let mut qkv = read("q", heads * c.head_dim, Some(heads))?;
    qkv.extend(read("k", kv_heads * c.head_dim, Some(kv_heads))?);
    qkv.extend(read("v", kv_heads * c.head_dim, None)?);
    let output = match file.tensors.contains_key(&format!("blk.{i}.attn_output.bias")) {
        true => read("output", c.hidden_size, None)?,
        false => Vec::new(),
    };
    Ok((qkv, output))
}

/// A parameter of the model.
#[derive(Clone, Copy)]
enum Place {
    Embed,
    Norm,
    Head,
    Layer(usize, fn(&Layer) -> ParamId),
}

impl Place {
    fn id(self, llama: &Llama) -> ParamId {
        match self {
            Place::Embed => llama.embed,
            Place::Norm => llama.norm,
            Place::Head => llama.head(),
            Place::Layer(i, of) => of(&llama.layers[i]),
        }
    }
}

/// One tensor of the file: which rows of which parameter it is.
struct Piece {
    name: String,
    place: Place,
    first_row: usize,
    shape: [usize; 2],
    /// Set if the rows of the heads are permuted.
    heads: Option<usize>,
}

/// Every tensor that the model needs, one at a time.
fn pieces(c: &LlamaConfig) -> impl Iterator<Item = Piece> + '_ {
    let (hidden, ffn, vocab) = (c.hidden_size, c.intermediate_size, c.vocab_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let whole = |name: &str, place: Place, shape: [usize; 2]| Piece {
        name: format!("{name}.weight"),
        place,
        first_row: 0,
        shape,
        heads: None,
    };
    let outer = [
        Some(whole("token_embd", Place::Embed, [vocab, hidden])),
        Some(whole("output_norm", Place::Norm, [1, hidden])),
        (!c.tie_word_embeddings).then(|| whole("output", Place::Head, [vocab, hidden])),
    ];
    let layers = (0..c.num_hidden_layers).flat_map(move |i| {
        let part = |name: &str, of: fn(&Layer) -> ParamId, shape: [usize; 2]| {
            whole(&format!("blk.{i}.{name}"), Place::Layer(i, of), shape)
        };
        [
            part("attn_norm", |l| l.attn_norm, [1, hidden]),
            Piece { heads: Some(c.num_attention_heads), ..part("attn_q", |l| l.wqkv, [q, hidden]) },
            Piece {
                heads: Some(c.num_key_value_heads),
                first_row: q,
                ..part("attn_k", |l| l.wqkv, [kv, hidden])
            },
            Piece { first_row: q + kv, ..part("attn_v", |l| l.wqkv, [kv, hidden]) },
            part("attn_output", |l| l.wo, [hidden, q]),
            part("ffn_norm", |l| l.ffn_norm, [1, hidden]),
            part("ffn_gate", |l| l.w_gate_up, [ffn, hidden]),
            Piece { first_row: ffn, ..part("ffn_up", |l| l.w_gate_up, [ffn, hidden]) },
            part("ffn_down", |l| l.w_down, [hidden, ffn]),
        ]
    });
    outer.into_iter().flatten().chain(layers)
}

impl Container {
    /// The configuration of a model of architecture `llama`.
    ///
    /// # Errors
    /// Another architecture, or metadata that is missing or makes no sense; the message names the key.
    pub fn config(&self) -> Result<LlamaConfig, Error> {
        config(self)
    }

    /// The tokenizer of the file, or one that stands beside a file without one.
    ///
    /// # Errors
    /// It is missing, or of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        tokenizer_of(self)
    }

    /// Type and bytes of a tensor of [rows, columns].
    ///
    /// # Errors
    /// It is missing, cut off, of another shape or of an unknown type.
    pub fn locate(&self, name: &str, shape: [usize; 2]) -> Result<(BlockType, &[u8]), Error> {
        locate(self, name, shape)
    }
}

/// Type and bytes of a tensor of [rows, columns].
fn locate<'f>(
    file: &'f Container,
    name: &str,
    [rows, columns]: [usize; 2],
) -> Result<(BlockType, &'f [u8]), Error> {
    let entry = file.tensors.get(name).ok_or_else(|| file.problem(format!("tensor `{name}` is missing")))?;
    let expected: &[usize] = if rows == 1 { &[columns] } else { &[columns, rows] };
    if entry.shape != expected {
        let found = &entry.shape;
        return Err(
            file.problem(format!("tensor `{name}` has shape {found:?}, the metadata asks for {expected:?}"))
        );
    }
    let block_type = BlockType::of(entry.kind).ok_or_else(|| {
        let kind = entry.kind;
        file.problem(format!(
            "tensor `{name}` has type {kind}; F32, F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K are read"
        ))
    })?;
    let (weights, size) = block_type.block();
    if !columns.is_multiple_of(weights) {
        return Err(
            file.problem(format!("tensor `{name}`: rows of {columns} are not whole blocks of {weights}"))
        );
    }
    let length = (columns / weights * size).saturating_mul(rows);
    Ok((block_type, file.bytes(name, entry, length)?))
}

/// Reads one tensor as floats.
fn tensor(file: &Container, name: &str, shape: [usize; 2], out: &mut [f32]) -> Result<(), Error> {
    let (block_type, bytes) = locate(file, name, shape)?;
    let (weights, size) = block_type.block();
    let columns = shape[1];
    out.par_chunks_mut(columns)
        .zip(bytes.par_chunks(columns / weights * size))
        .for_each(|(out, bytes)| block_type.dequantise(bytes, out));
    if let Some(at) = out.iter().position(|x| !x.is_finite()) {
        return Err(file.problem(format!("tensor `{name}` holds NaN or infinity at element {at}")));
    }
    Ok(())
}

/// Row `2 i + p` of a head becomes row `p half + i`.
fn unpermute<T: Copy>(rows: &mut [T], heads: usize, columns: usize) {
    let head = rows.len() / heads;
    let half = head / columns / 2;
    for rows in rows.chunks_exact_mut(head) {
        let old = rows.to_vec();
        for (from, row) in old.chunks_exact(columns).enumerate() {
            let to = (from % 2 * half + from / 2) * columns;
            rows[to..to + columns].copy_from_slice(row);
        }
    }
}

fn config(file: &Container) -> Result<LlamaConfig, Error> {
    match file.metadata.get("general.architecture") {
        Some(Value::Text(name)) if name == "llama" => {}
        other => {
            let found = other.map_or("missing".into(), |v| v.to_string());
            return Err(file.problem(format!("`general.architecture` is {found}, only llama is supported")));
        }
    }
    let whole = |key: &str| match file.metadata.get(key) {
        None => Ok(None),
        Some(Value::Whole(n)) if *n > 0 && *n < 1 << 31 => Ok(Some(*n as usize)),
        Some(other) => Err(file.problem(format!("`{key}` is {other}, expected a positive whole number"))),
    };
    let needed = |key: &str| whole(key)?.ok_or_else(|| file.problem(format!("`{key}` is missing")));
    let number = |key: &str, default: f64| match file.metadata.get(key) {
        None => Ok(default),
        Some(Value::Number(n)) if *n > 0.0 && n.is_finite() => Ok(*n),
        Some(other) => Err(file.problem(format!("`{key}` is {other}, expected a positive number"))),
    };
    let token = |key: &str| match file.metadata.get(key) {
        Some(Value::Whole(n)) => u32::try_from(*n).ok(),
        _ => None,
    };
    let hidden_size = needed("llama.embedding_length")?;
    let heads = needed("llama.attention.head_count")?;
    let kv_heads = whole("llama.attention.head_count_kv")?.unwrap_or(heads);
    let head_dim = whole("llama.attention.key_length")?.unwrap_or(hidden_size / heads);
    if !heads.is_multiple_of(kv_heads) || head_dim == 0 || !head_dim.is_multiple_of(2) {
        let problem = format!("{heads} heads of {head_dim} with {kv_heads} key/value heads are no Llama");
        return Err(file.problem(problem));
    }
    if let Some(rotated) = whole("llama.rope.dimension_count")?.filter(|n| *n != head_dim) {
        let problem =
            format!("`llama.rope.dimension_count` is {rotated}, only whole heads of {head_dim} are rotated");
        return Err(file.problem(problem));
    }
    let context = whole("llama.context_length")?.unwrap_or(2048);
    if context > MAX_CONTEXT {
        return Err(
            file.problem(format!("`llama.context_length` is {context}; at most {MAX_CONTEXT} are supported"))
        );
    }
    let rope_theta = number("llama.rope.freq_base", 10_000.0)?;
    let embedding = file.tensors.get("token_embd.weight").and_then(|t| t.shape.get(1).copied());
    let vocab_size = embedding.ok_or_else(|| file.problem("tensor `token_embd.weight` is missing"))?;
    Ok(LlamaConfig {
        vocab_size,
        hidden_size,
        intermediate_size: needed("llama.feed_forward_length")?,
        num_hidden_layers: needed("llama.block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: kv_heads,
        head_dim,
        rms_norm_eps: number("llama.attention.layer_norm_rms_epsilon", 1e-5)?,
        rope_theta,
        rope_scaling: rope_scaling(file, head_dim, rope_theta)?,
        attention_bias: file.tensors.contains_key("blk.0.attn_q.bias"),
        tie_word_embeddings: !file.tensors.contains_key("output.weight"),
        max_position_embeddings: context,
        initializer_range: 0.02,
        bos_token_id: token("tokenizer.ggml.bos_token_id").unwrap_or(1),
        eos_token_ids: ["eos", "eot", "eom"]
            .iter()
            .filter_map(|name| token(&format!("tokenizer.ggml.{name}_token_id")))
            .collect(),
        torch_dtype: TorchDtype::Float32,
    })
}

/// Llama 3.1's scaling. GGUF holds its result, one divisor per frequency; the factor is the largest of them, and the
/// other numbers are the same in all models that Meta released. Files that Herd wrote say them.
fn rope_scaling(file: &Container, head_dim: usize, theta: f64) -> Result<Option<RopeScaling>, Error> {
    let Some(entry) = file.tensors.get("rope_freqs.weight") else { return Ok(None) };
    let mut divisors = vec![0.0; head_dim / 2];
    let shape = [1, entry.shape.iter().product()];
    if shape[1] != divisors.len() {
        return Err(file.problem(format!(
            "tensor `rope_freqs.weight` has {} numbers, not {}",
            shape[1],
            head_dim / 2
        )));
    }
    tensor(file, "rope_freqs.weight", shape, &mut divisors)?;
    let factor = divisors.iter().copied().fold(1.0, f32::max);
    let number = |key: &str, default: f64| match file.metadata.get(&format!("herd.rope_scaling.{key}")) {
        Some(Value::Number(x)) if *x > 0.0 && x.is_finite() => *x,
        Some(Value::Whole(n)) if *n > 0 && *n < 1 << 31 => *n as f64,
        _ => default,
    };
    let scaling = RopeScaling {
        factor: number("factor", factor.into()),
        low_freq_factor: number("low_freq_factor", 1.0),
        high_freq_factor: number("high_freq_factor", 4.0),
        original_max_position_embeddings: number("original_max_position_embeddings", 8192.0) as usize,
    };
    for (i, &divisor) in divisors.iter().enumerate() {
        let wavelength = std::f64::consts::TAU * theta.powf(2.0 * i as f64 / head_dim as f64);
        let context = scaling.original_max_position_embeddings as f64;
        let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
        let smooth = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
        let expected = 1.0 / ((1.0 - smooth) / scaling.factor + smooth);
        if (f64::from(divisor) / expected - 1.0).abs() > 1e-3 {
            let problem = "tensor `rope_freqs.weight` is not the scaling of Llama 3.1 over a context of 8192";
            return Err(file.problem(problem));
        }
    }
    Ok(Some(scaling))
}

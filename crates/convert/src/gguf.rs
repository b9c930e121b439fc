//! Writes GGUF version 3.

use crate::Error;
use herd_infer::gguf::BlockType;
use herd_model::LlamaConfig;
use herd_tokenizer::GgufTokenizer;
use std::borrow::Cow;
use std::io::Write;

/// Multiple of which every tensor begins at.
pub(crate) const ALIGNMENT: usize = 32;

/// A metadata value.
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    F64(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Ints(Vec<i32>),
}

/// A tensor that will follow.
pub(crate) struct Entry {
    pub name: String,
    /// Rows first.
    pub shape: Vec<usize>,
    pub kind: BlockType,
}

impl Entry {
    /// Its size, bytes.
    pub(crate) fn size(&self) -> usize {
        let (weights, size) = self.kind.block();
        self.shape.iter().product::<usize>() / weights * size
    }
}

/// Writes everything before the numbers; they follow in the order of `tensors`, each padded to [`ALIGNMENT`].
pub(crate) fn write_head(
    out: &mut impl Write,
    metadata: &[(String, Value)],
    tensors: &[Entry],
) -> Result<(), Error> {
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        value.write(&mut head);
    }
    let mut offset = 0usize;
    for entry in tensors {
        text(&mut head, &entry.name);
        head.extend((entry.shape.len() as u32).to_le_bytes());
        for &size in entry.shape.iter().rev() {
            head.extend((size as u64).to_le_bytes());
        }
        head.extend(entry.kind.number().to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += entry.size().next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    Ok(out.write_all(&head)?)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, kind: u32, length: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((length as u64).to_le_bytes());
        };
        let one = |out: &mut Vec<u8>, kind: u32, bytes: &[u8]| {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Value::U32(n) => one(out, 4, &n.to_le_bytes()),
            Value::F32(x) => one(out, 6, &x.to_le_bytes()),
            Value::F64(x) => one(out, 12, &x.to_le_bytes()),
            Value::Bool(b) => one(out, 7, &[u8::from(*b)]),
            Value::Text(t) => {
                one(out, 8, &[]);
                text(out, t);
            }
            Value::Texts(texts) => {
                list(out, 8, texts.len());
                texts.iter().for_each(|t| text(out, t));
            }
            Value::Floats(floats) => {
                list(out, 6, floats.len());
                out.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
            }
            Value::Ints(ints) => {
                list(out, 5, ints.len());
                out.extend(ints.iter().flat_map(|n| n.to_le_bytes()));
            }
        }
    }
}

/// What llama.cpp needs to know of a model, and Herd to know it again.
pub(crate) fn metadata(
    name: &str,
    c: &LlamaConfig,
    tokenizer: GgufTokenizer<'_>,
    file_type: u32,
) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| all.push((key.to_string(), value));
    put("general.architecture", Value::Text("llama".into()));
    put("general.type", Value::Text("model".into()));
    put("general.name", Value::Text(name.into()));
    put("general.file_type", Value::U32(file_type));
    put("general.quantization_version", Value::U32(2));
    for (key, value) in [
        ("block_count", c.num_hidden_layers),
        ("context_length", c.max_position_embeddings),
        ("embedding_length", c.hidden_size),
        ("feed_forward_length", c.intermediate_size),
        ("attention.head_count", c.num_attention_heads),
        ("attention.head_count_kv", c.num_key_value_heads),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
        ("rope.dimension_count", c.head_dim),
        ("vocab_size", c.vocab_size),
    ] {
        put(&format!("llama.{key}"), Value::U32(value as u32));
    }
    put("llama.attention.layer_norm_rms_epsilon", Value::F32(c.rms_norm_eps as f32));
    put("llama.rope.freq_base", Value::F32(c.rope_theta as f32));
    if let Some(s) = &c.rope_scaling {
        // llama.cpp reads the tensor `rope_freqs.weight`; the numbers it was made of are for the way back.
        put("herd.rope_scaling.factor", Value::F64(s.factor));
        put("herd.rope_scaling.low_freq_factor", Value::F64(s.low_freq_factor));
        put("herd.rope_scaling.high_freq_factor", Value::F64(s.high_freq_factor));
        let original = s.original_max_position_embeddings as u32;
        put("herd.rope_scaling.original_max_position_embeddings", Value::U32(original));
    }
    let mut put = |key: &str, value: Value| all.push((format!("tokenizer.{key}"), value));
    let texts = |list: Vec<Cow<'_, str>>| Value::Texts(list.into_iter().map(Cow::into_owned).collect());
    // llama.cpp looks for the merges of a byte-level vocabulary even if there are none.
    let merges = !tokenizer.merges.is_empty() || tokenizer.model == "gpt2";
    put("ggml.model", Value::Text(tokenizer.model));
    if let Some(pre) = tokenizer.pre {
        put("ggml.pre", Value::Text(pre));
    }
    put("ggml.tokens", texts(tokenizer.tokens));
    put("ggml.token_type", Value::Ints(tokenizer.types));
    if !tokenizer.scores.is_empty() {
        put("ggml.scores", Value::Floats(tokenizer.scores));
    }
    if merges {
        put("ggml.merges", texts(tokenizer.merges));
    }
    for (key, id) in [
        ("bos", tokenizer.bos),
        ("eos", tokenizer.eos),
        ("unknown", tokenizer.unknown),
        ("padding", tokenizer.padding),
    ] {
        if let Some(id) = id {
            put(&format!("ggml.{key}_token_id"), Value::U32(id));
        }
    }
    for (key, flag) in
        [("add_bos_token", tokenizer.add_bos), ("add_space_prefix", tokenizer.add_space_prefix)]
    {
        if let Some(flag) = flag {
            put(&format!("ggml.{key}"), Value::Bool(flag));
        }
    }
    if let Some(template) = tokenizer.chat_template {
        put("chat_template", Value::Text(template));
    }
    all
}

/// The divisors of the rotary frequencies that Llama 3.1's scaling means, as llama.cpp wants them.
pub(crate) fn rope_divisors(c: &LlamaConfig) -> Option<Vec<f32>> {
    let s = c.rope_scaling?;
    let divisor = |i: usize| {
        let wavelength = std::f64::consts::TAU * c.rope_theta.powf(2.0 * i as f64 / c.head_dim as f64);
        let context = s.original_max_position_embeddings as f64;
        if wavelength < context / s.high_freq_factor {
            1.0
        } else if wavelength > context / s.low_freq_factor {
            s.factor
        } else {
            let smooth =
                (context / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
            1.0 / ((1.0 - smooth) / s.factor + smooth)
        }
    };
    Some((0..c.head_dim / 2).map(|i| divisor(i) as f32).collect())
}

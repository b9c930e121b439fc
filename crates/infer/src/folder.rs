//! Opens a Hugging Face folder with its weights as they lie in the files: memory-mapped, never copied.

use crate::weights::{FloatSource, HalfSource, Layer, Matrix, Sizes, Weights, first};
use half::{bf16, f16};
use herd_model::weights::{WeightsError, check_known};
use herd_model::{Llama, LlamaConfig, TensorFiles, TensorSlot, TensorType};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

/// Configuration and weights of a folder.
///
/// # Errors
/// A tensor that is missing, left over, of another shape or format than `config.json` asks for, or not finite.
pub(crate) fn open(dir: &Path) -> Result<(LlamaConfig, Weights), WeightsError> {
    let config = LlamaConfig::read(dir)?;
    let files = Arc::new(TensorFiles::open(dir)?);
    let mut reader = Reader { files, used: BTreeSet::new() };
    let c = &config;
    let (hidden, ffn) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
    let embed = reader.matrix("model.embed_tokens", c.vocab_size, hidden)?;
    let mut layers = Vec::new();
    for i in 0..c.num_hidden_layers {
        let name = |part: &str| format!("model.layers.{i}.{part}");
        let attention = |part: &str| name(&format!("self_attn.{part}_proj"));
        let qkv = [("q", q), ("k", kv), ("v", kv)];
        let matrices = qkv.map(|(part, rows)| reader.matrix(&attention(part), rows, hidden));
        let (mut qkv_bias, mut output_bias) = (Vec::new(), Vec::new());
        if c.attention_bias {
            for (part, rows) in qkv {
                qkv_bias.extend(reader.vector(&format!("{}.bias", attention(part)), rows)?);
            }
            output_bias = reader.vector(&format!("{}.bias", attention("o")), hidden)?;
        }
        layers.push(Layer {
            attn_norm: reader.vector(&name("input_layernorm.weight"), hidden)?,
            qkv: Matrix::stacked(matrices.into_iter().collect::<Result<_, _>>()?),
            qkv_bias,
            output: reader.matrix(&attention("o"), hidden, q)?,
            output_bias,
            ffn_norm: reader.vector(&name("post_attention_layernorm.weight"), hidden)?,
            gate_up: Matrix::stacked(vec![
                reader.matrix(&name("mlp.gate_proj"), ffn, hidden)?,
                reader.matrix(&name("mlp.up_proj"), ffn, hidden)?,
            ]),
            down: reader.matrix(&name("mlp.down_proj"), hidden, ffn)?,
        });
    }
    let norm = reader.vector("model.norm.weight", hidden)?;
    let head = match c.tie_word_embeddings {
        true => None,
        false => Some(reader.matrix("lm_head", c.vocab_size, hidden)?),
    };
    check_known(&reader.files, |name| reader.used.contains(name))?;
    let rope = Llama::rope_of(&config);
    let weights = Weights::new(Sizes::of(&config), embed, layers, norm, head, rope);
    Ok((config, weights))
}

struct Reader {
    files: Arc<TensorFiles>,
    used: BTreeSet<String>,
}

impl Reader {
    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, WeightsError> {
        let stored = self.files.expect(name, &[length])?;
        let mut out = vec![0.0; length];
        stored.copy_to(0, &mut out);
        if let Some(index) = out.iter().position(|x| !x.is_finite()) {
            return Err(stored.not_finite(name, index));
        }
        self.used.insert(name.to_string());
        Ok(out)
    }

    /// `{name}.weight`, where it lies.
    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, WeightsError> {
        let name = format!("{name}.weight");
        let stored = self.files.expect(&name, &[rows, columns])?;
        let bytes = stored.bytes;
        let wrong = |index: usize| stored.not_finite(&name, index);
        let size = if stored.dtype == TensorType::F32 { 4 } else { 2 };
        let aligned = bytes.as_ptr().addr().is_multiple_of(size) && cfg!(target_endian = "little");
        let mapped = || Mapped { files: self.files.clone(), slot: stored.slot };
        let matrix = match stored.dtype {
            TensorType::F32 if aligned => {
                let source = mapped();
                first(source.floats(), |x| !x.is_finite()).map_or(Ok(()), |at| Err(wrong(at)))?;
                Matrix::F32 { range: 0..rows * columns, source: Arc::new(source), columns }
            }
            TensorType::F16 | TensorType::BF16 if aligned => {
                let (source, brain) = (mapped(), stored.dtype == TensorType::BF16);
                let bad = match brain {
                    true => first(source.halves(), |&bits| !bf16::from_bits(bits).is_finite()),
                    false => first(source.halves(), |&bits| !f16::from_bits(bits).is_finite()),
                };
                bad.map_or(Ok(()), |at| Err(wrong(at)))?;
                Matrix::Halves { source: Arc::new(source), brain, columns }
            }
            // A file whose header has an odd length: its numbers must be copied.
            _ => {
                let mut floats = vec![0.0; rows * columns];
                stored.copy_to(0, &mut floats);
                first(&floats, |x| !x.is_finite()).map_or(Ok(()), |at| Err(wrong(at)))?;
                Matrix::F32 { range: 0..floats.len(), source: Arc::new(floats), columns }
            }
        };
        self.used.insert(name);
        Ok(matrix)
    }
}

/// Numbers where they lie in a file, at an address that suits them.
struct Mapped {
    files: Arc<TensorFiles>,
    slot: TensorSlot,
}

impl FloatSource for Mapped {
    fn floats(&self) -> &[f32] {
        let bytes = self.files.bytes(self.slot);
        // SAFETY: any bits are an f32, and the address is a multiple of 4 where this is made for floats.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 4) }
    }
}

impl HalfSource for Mapped {
    fn halves(&self) -> &[u16] {
        let bytes = self.files.bytes(self.slot);
        // SAFETY: any bits are a u16, and the address is even where this is made for halves.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / 2) }
    }
}

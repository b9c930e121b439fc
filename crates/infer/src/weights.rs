//! The weights of one Llama as the forward pass reads them, whatever file they came from.

use crate::kernels::{self, Isa};
use herd_model::Llama;
use herd_tensor::{ParamId, Params, RopeTable};
use std::ops::Range;
use std::sync::Arc;

/// Where the floats of a matrix lie.
pub(crate) trait FloatSource: Send + Sync {
    /// All floats of the source.
    fn floats(&self) -> &[f32];
}

impl FloatSource for Vec<f32> {
    fn floats(&self) -> &[f32] {
        self
    }
}

impl FloatSource for Params {
    fn floats(&self) -> &[f32] {
        self.flat()
    }
}

/// A weight matrix [rows, columns] that a row of activations is multiplied with from the right, transposed.
/// Quantised forms are further variants; the callers do not know which one they have.
#[derive(Clone)]
pub(crate) enum Matrix {
    /// Row-major `f32`, a range of a shared source, never copied.
    F32 { source: Arc<dyn FloatSource>, range: Range<usize>, columns: usize },
}

impl Matrix {
    /// `out[m, rows] = x[m, columns] self^T`; every row of `out` has the same bits for every `m`.
    pub(crate) fn multiply(&self, isa: Isa, x: &[f32], out: &mut [f32]) {
        match self {
            Matrix::F32 { source, range, columns } => {
                kernels::linear(isa, x, &source.floats()[range.clone()], *columns, out);
            }
        }
    }

    /// Copies row `index`, or zeros if there is no such row.
    pub(crate) fn copy_row(&self, index: usize, out: &mut [f32]) {
        match self {
            Matrix::F32 { source, range, columns } => {
                let row = source.floats()[range.clone()].chunks_exact(*columns).nth(index);
                match row {
                    Some(row) => out.copy_from_slice(row),
                    None => out.fill(0.0),
                }
            }
        }
    }
}

/// Sizes that the forward pass needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sizes {
    pub hidden: usize,
    pub ffn: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab: usize,
    /// Longest sequence.
    pub context: usize,
    pub eps: f32,
}

/// One block: attention, then the feed-forward layer.
pub(crate) struct Layer {
    pub attn_norm: Vec<f32>,
    /// [(heads + 2 kv_heads) head_dim, hidden]: queries, keys, values.
    pub qkv: Matrix,
    /// [hidden, heads head_dim].
    pub output: Matrix,
    pub ffn_norm: Vec<f32>,
    /// [2 ffn, hidden]: gate, then up.
    pub gate_up: Matrix,
    /// [hidden, ffn].
    pub down: Matrix,
}

/// A whole model.
pub(crate) struct Weights {
    pub sizes: Sizes,
    /// [vocab, hidden].
    pub embed: Matrix,
    pub layers: Vec<Layer>,
    pub norm: Vec<f32>,
    /// [vocab, hidden]; the same matrix as `embed` if tied.
    pub head: Matrix,
    /// Rotary angles of all positions of the context.
    pub rope: RopeTable,
    /// The kernels' instruction set.
    pub isa: Isa,
}

impl Weights {
    /// The weights of a model as training holds them; the matrices are not copied.
    pub(crate) fn of(llama: &Llama, params: Params) -> Self {
        let c = &llama.config;
        let sizes = Sizes {
            hidden: c.hidden_size,
            ffn: c.intermediate_size,
            layers: c.num_hidden_layers,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            vocab: c.vocab_size,
            context: c.max_position_embeddings,
            eps: c.rms_norm_eps as f32,
        };
        let source = Arc::new(params);
        let vector = |id: ParamId| source.value(id).to_vec();
        let matrix = |id: ParamId, columns: usize| {
            let floats: Arc<dyn FloatSource> = source.clone();
            Matrix::F32 { source: floats, range: source.range(id), columns }
        };
        let layers = llama.layers.iter().map(|layer| Layer {
            attn_norm: vector(layer.attn_norm),
            qkv: matrix(layer.wqkv, sizes.hidden),
            output: matrix(layer.wo, sizes.heads * sizes.head_dim),
            ffn_norm: vector(layer.ffn_norm),
            gate_up: matrix(layer.w_gate_up, sizes.hidden),
            down: matrix(layer.w_down, sizes.ffn),
        });
        Self {
            sizes,
            embed: matrix(llama.embed, sizes.hidden),
            layers: layers.collect(),
            norm: vector(llama.norm),
            head: matrix(llama.head(), sizes.hidden),
            rope: llama.rope.clone(),
            isa: Isa::best(),
        }
    }
}

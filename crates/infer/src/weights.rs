//! The weights of one Llama as the forward pass reads them, whatever file they came from.

use crate::CacheType;
use crate::cache::CacheShape;
use crate::kernels::{self, Activations, Arena, Isa, Kept, PageShape, Planes, Stored};
use crate::team::Team;
use half::{bf16, f16};
use herd_model::{Llama, LlamaConfig};
use herd_tensor::{ParamId, Params, RopeTable};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Rows that [`Matrix::multiply_finely`] takes at a time.
const FINE_ROWS: usize = 32;

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

/// Where half-precision floats lie.
pub(crate) trait HalfSource: Send + Sync {
    /// All numbers of the source, as bits.
    fn halves(&self) -> &[u16];
}

impl HalfSource for Vec<u16> {
    fn halves(&self) -> &[u16] {
        self
    }
}

/// Place of the first number that `is` such, found on all threads.
pub(crate) fn first<T: Sync>(numbers: &[T], is: impl Fn(&T) -> bool + Sync) -> Option<usize> {
    const CHUNK: usize = 1 << 16;
    let chunk = numbers.par_chunks(CHUNK).position_first(|chunk| chunk.iter().any(&is))?;
    numbers[chunk * CHUNK..].iter().position(&is).map(|at| chunk * CHUNK + at)
}

/// A weight matrix [rows, columns] that a row of activations is multiplied with from the right, transposed.
#[derive(Clone)]
pub(crate) enum Matrix {
    /// Row-major `f32`, a range of a shared source, never copied.
    F32 { source: Arc<dyn FloatSource>, range: Range<usize>, columns: usize },
    /// Row-major half-precision floats, or brain floats.
    Halves { source: Arc<dyn HalfSource>, brain: bool, columns: usize },
    /// Quantised.
    Planes(Planes),
    /// Matrices with the same columns above each other.
    Stacked(Vec<Matrix>),
}

impl Matrix {
    /// Matrices above each other.
    pub(crate) fn stacked(mut parts: Vec<Matrix>) -> Matrix {
        if parts.len() == 1 { parts.remove(0) } else { Matrix::Stacked(parts) }
    }

    /// The plain matrices that it is made of.
    pub(crate) fn parts(&self) -> &[Matrix] {
        match self {
            Matrix::Stacked(parts) => parts,
            one => std::slice::from_ref(one),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        match self {
            Matrix::F32 { range, columns, .. } => range.len() / columns,
            Matrix::Halves { source, columns, .. } => source.halves().len() / columns,
            Matrix::Planes(planes) => planes.rows,
            Matrix::Stacked(parts) => parts.iter().map(Matrix::rows).sum(),
        }
    }

    pub(crate) fn columns(&self) -> usize {
        match self {
            Matrix::F32 { columns, .. } | Matrix::Halves { columns, .. } => *columns,
            Matrix::Planes(planes) => planes.columns,
            Matrix::Stacked(parts) => parts.first().map_or(0, Matrix::columns),
        }
    }

    /// Whether any of it is quantised.
    pub(crate) fn is_quantised(&self) -> bool {
        self.parts().iter().any(|part| matches!(part, Matrix::Planes(_)))
    }

    /// Whether all of it is in single precision.
    pub(crate) fn is_f32(&self) -> bool {
        self.parts().iter().all(|part| matches!(part, Matrix::F32 { .. }))
    }

    /// Whether any of it is in brain floats.
    pub(crate) fn is_brain(&self) -> bool {
        self.parts().iter().any(|part| matches!(part, Matrix::Halves { brain: true, .. }))
    }

    /// Says that this matrix will be multiplied with `m` rows next. With many the products take longer than the memory.
    pub(crate) fn soon(&self, team: &Team, m: usize) {
        if (1..=kernels::FEW_ROWS).contains(&m)
            && let Some(Matrix::Planes(planes)) = self.parts().first()
            && let Some(memory) = planes.second_unit(m, self.rows(), team.threads())
        {
            team.soon(memory);
        }
    }

    /// `out[m, rows] = x[m, columns] self^T`; every row of `out` has the same bits for every `m`.
    pub(crate) fn multiply(
        &self,
        isa: Isa,
        team: &Team,
        x: &[f32],
        scratch: &mut Activations,
        out: &mut [f32],
    ) {
        if self.is_quantised() {
            scratch.quantise(isa, team, x, self.columns(), false);
        }
        if self.is_brain() {
            scratch.round(team, x, self.columns());
        }
        self.multiply_taken(isa, team, x, scratch, out);
    }

    /// As [`Matrix::multiply`], with `x` already in the scratch as what is not floats takes it.
    fn multiply_taken(&self, isa: Isa, team: &Team, x: &[f32], scratch: &Activations, out: &mut [f32]) {
        let stride = self.rows();
        let mut out = out;
        let mut parts = self.parts();
        while let Some(part) = parts.first() {
            let mut taken = 1;
            match part {
                Matrix::Planes(_) => {
                    // Neighbours share one parallel region.
                    let planes =
                        parts.iter().map_while(|p| if let Matrix::Planes(p) = p { Some(p) } else { None });
                    let planes: Vec<&Planes> = planes.collect();
                    taken = planes.len();
                    kernels::multiply(isa, team, &planes, scratch, out, stride);
                }
                Matrix::F32 { source, range, columns } => {
                    let w = Stored::F32(&source.floats()[range.clone()]);
                    kernels::linear(isa, team, x, w, *columns, out, stride);
                }
                Matrix::Halves { source, brain: false, columns } => {
                    kernels::linear(isa, team, x, Stored::F16(source.halves()), *columns, out, stride);
                }
                Matrix::Halves { source, brain: true, columns } => {
                    let w = source.halves();
                    match scratch.rounded() {
                        Some(x) => kernels::linear_brain(isa, team, x, w, *columns, out, stride),
                        None => kernels::linear(isa, team, x, Stored::Bf16(w), *columns, out, stride),
                    }
                }
                // A stack is made of plain parts.
                Matrix::Stacked(_) => {}
            }
            let (these, rest) = parts.split_at(taken);
            let width = these.iter().map(Matrix::rows).sum::<usize>().min(out.len());
            out = &mut out[width..];
            parts = rest;
        }
    }

    /// As [`Matrix::multiply`], but each row of activations is given to weights that are not floats twice: as bytes or
    /// brain floats, and as those of what they leave over, so with 16 bits of precision. Twice the arithmetic, and the
    /// same weights to read: for the logits and what is added last to the hidden states, whose errors nothing evens out.
    pub(crate) fn multiply_finely(
        &self,
        isa: Isa,
        team: &Team,
        x: &[f32],
        scratch: &mut Activations,
        out: &mut [f32],
    ) {
        let (rows, columns) = (self.rows(), self.columns());
        match self {
            Matrix::Halves { brain: true, .. } if !scratch.is_exact() => {}
            _ if self.parts().iter().all(|part| matches!(part, Matrix::Planes(_))) => {
                scratch.quantise(isa, team, x, columns, true);
                return self.multiply_taken(isa, team, x, scratch, out);
            }
            _ => return self.multiply(isa, team, x, scratch, out),
        }
        let mut pair = vec![0.0; 2 * FINE_ROWS * columns];
        let mut parts = vec![0.0; 2 * FINE_ROWS.min(x.len() / columns) * rows];
        for (x, out) in x.chunks(FINE_ROWS * columns).zip(out.chunks_mut(FINE_ROWS * rows)) {
            let pair = &mut pair[..2 * x.len()];
            for (x, pair) in x.chunks_exact(columns).zip(pair.chunks_exact_mut(2 * columns)) {
                let (all, rest) = pair.split_at_mut(columns);
                all.copy_from_slice(x);
                kernels::rounded_off(x, rest);
            }
            let parts = &mut parts[..2 * out.len()];
            self.multiply(isa, team, pair, scratch, parts);
            for (out, parts) in out.chunks_exact_mut(rows).zip(parts.chunks_exact(2 * rows)) {
                let (all, rest) = parts.split_at(rows);
                out.iter_mut().zip(all.iter().zip(rest)).for_each(|(out, (a, b))| *out = a + b);
            }
        }
    }

    /// Copies row `index`, or zeros if there is no such row.
    pub(crate) fn copy_row(&self, mut index: usize, out: &mut [f32]) {
        for part in self.parts() {
            if index >= part.rows() {
                index -= part.rows();
                continue;
            }
            let range = index * out.len()..(index + 1) * out.len();
            match part {
                Matrix::F32 { source, range: all, .. } => {
                    out.copy_from_slice(&source.floats()[all.clone()][range]);
                }
                Matrix::Halves { source, brain, .. } => {
                    for (out, &bits) in out.iter_mut().zip(&source.halves()[range]) {
                        *out = if *brain {
                            bf16::from_bits(bits).to_f32()
                        } else {
                            f16::from_bits(bits).to_f32()
                        };
                    }
                }
                Matrix::Planes(planes) => planes.copy_row(index, out),
                Matrix::Stacked(_) => {}
            }
            return;
        }
        out.fill(0.0);
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

impl Sizes {
    /// The sizes of a model.
    pub(crate) fn of(c: &LlamaConfig) -> Self {
        Self {
            hidden: c.hidden_size,
            ffn: c.intermediate_size,
            layers: c.num_hidden_layers,
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            vocab: c.vocab_size,
            context: c.max_position_embeddings,
            eps: c.rms_norm_eps as f32,
        }
    }
}

/// One block: attention, then the feed-forward layer.
pub(crate) struct Layer {
    pub attn_norm: Vec<f32>,
    /// [(heads + 2 kv_heads) head_dim, hidden]: queries, keys, values.
    pub qkv: Matrix,
    /// [(heads + 2 kv_heads) head_dim], or empty.
    pub qkv_bias: Vec<f32>,
    /// [hidden, heads head_dim].
    pub output: Matrix,
    /// [hidden], or empty.
    pub output_bias: Vec<f32>,
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
    tied: bool,
    /// Rotary angles of all positions of the context.
    pub rope: RopeTable,
    /// The kernels' instruction set.
    pub isa: Isa,
    /// Where quantised matrices are packed.
    pub arena: Option<Arc<Arena>>,
    /// A pass was computed, so that somebody has got a token.
    used: AtomicBool,
    /// Whether brain floats are multiplied with activations that are not rounded.
    pub exact: bool,
}

impl Weights {
    /// The weights of a model as training holds them; the matrices are not copied.
    pub(crate) fn of(llama: &Llama, params: Params) -> Self {
        let sizes = Sizes::of(&llama.config);
        let source = Arc::new(params);
        let vector = |id: ParamId| source.value(id).to_vec();
        let matrix = |id: ParamId, columns: usize| {
            let floats: Arc<dyn FloatSource> = source.clone();
            Matrix::F32 { source: floats, range: source.range(id), columns }
        };
        let layers = llama.layers.iter().map(|layer| Layer {
            attn_norm: vector(layer.attn_norm),
            qkv: matrix(layer.wqkv, sizes.hidden),
            qkv_bias: Vec::new(),
            output: matrix(layer.wo, sizes.heads * sizes.head_dim),
            output_bias: Vec::new(),
            ffn_norm: vector(layer.ffn_norm),
            gate_up: matrix(layer.w_gate_up, sizes.hidden),
            down: matrix(layer.w_down, sizes.ffn),
        });
        let embed = matrix(llama.embed, sizes.hidden);
        let head = (llama.head() != llama.embed).then(|| matrix(llama.head(), sizes.hidden));
        Self::new(sizes, embed, layers.collect(), vector(llama.norm), head, llama.rope.clone())
    }

    /// How a cache keeps the keys and values of this model.
    pub(crate) fn cache_shape(&self, cache_type: CacheType) -> CacheShape {
        let short = self.layers.iter().any(|layer| !layer.qkv.is_f32());
        let kept = match cache_type {
            CacheType::Auto if short && !self.exact => Kept::F16,
            CacheType::Auto | CacheType::F32 => Kept::F32,
            CacheType::F16 => Kept::F16,
            CacheType::Q8 => Kept::Q8,
        };
        let s = self.sizes;
        let head = PageShape { kept, head_dim: s.head_dim };
        CacheShape { layers: s.layers, kv_heads: s.kv_heads, head }
    }

    /// A model of its parts, with the kernels of this machine; without a `head` the logits' matrix is `embed`.
    pub(crate) fn new(
        sizes: Sizes,
        embed: Matrix,
        layers: Vec<Layer>,
        norm: Vec<f32>,
        head: Option<Matrix>,
        rope: RopeTable,
    ) -> Self {
        let (isa, used, tied) = (Isa::best(), AtomicBool::new(false), head.is_none());
        let head = head.unwrap_or_else(|| embed.clone());
        Self { sizes, embed, layers, norm, head, tied, rope, isa, arena: None, used, exact: false }
    }

    /// Whether the logits' matrix is not that of the embedding.
    pub(crate) fn has_own_head(&self) -> bool {
        !self.tied
    }

    /// To be called before each pass: all but the first pack a quarter of the quantised weights, until all are packed.
    pub(crate) fn before_pass(&self, team: &Team) {
        if self.is_packed() || !self.used.swap(true, Ordering::Relaxed) {
            return;
        }
        self.pack(team, self.arena.as_ref().map_or(0, |arena| arena.len() / 4));
    }

    /// Whether all that can be packed is.
    pub(crate) fn is_packed(&self) -> bool {
        self.arena.as_ref().is_none_or(|arena| arena.left() == 0)
    }

    /// Packs matrices, at least `bytes` if so much is left.
    pub(crate) fn pack(&self, team: &Team, bytes: usize) {
        let layers = self.layers.iter().flat_map(|l| [&l.qkv, &l.output, &l.gate_up, &l.down]);
        let matrices = std::iter::once(&self.head).chain(layers);
        let mut packed = 0;
        for part in matrices.flat_map(Matrix::parts) {
            if let Matrix::Planes(planes) = part {
                packed += planes.pack(team);
            }
            if packed >= bytes {
                return;
            }
        }
    }
}

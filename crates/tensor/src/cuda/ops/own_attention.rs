//! Attention by kernels of our own: in bf16 with 64 or 128 columns on tensor cores, anything else in plain f32.

use super::tiles::CardTiles;
use super::{each, int};
use crate::cuda::{Arg, Card, CardBuffer, CardError, DType, Grid, THREADS};
use crate::{AttentionShape, Segments};
use std::sync::Arc;

/// The widest head that there is a kernel for: `16 MOST_COLUMNS` of `attention.cu`.
pub(super) const WIDEST: usize = 128;

/// A family of kernels.
struct Kernels {
    forward: &'static str,
    dq: &'static str,
    dkv: &'static str,
    /// Rows of a tile.
    tile: usize,
    threads: usize,
    /// Bytes of shared memory in the forward and the backward pass.
    shared: [usize; 2],
}

impl Kernels {
    /// Tensor cores where they apply; else plain f32 arithmetic.
    fn of(activations: DType, head_dim: usize) -> Self {
        let [forward, dq, dkv] = match (activations, head_dim) {
            (DType::Bf16, 64) => ["attention_64", "attention_dq_64", "attention_dkv_64"],
            (DType::Bf16, 128) => ["attention_128", "attention_dq_128", "attention_dkv_128"],
            _ => {
                let (tile, row) = (32, head_dim + 1);
                let (rows, scores) = (tile * row, tile * (tile + 1));
                let shared = [4 * (2 * rows + scores + 3 * tile), 4 * (4 * rows + 2 * scores)];
                let [forward, dq, dkv] = ["attention", "attention_dq", "attention_dkv"];
                return Self { forward, dq, dkv, tile, threads: THREADS, shared };
            }
        };
        let (tile, row) = (64, head_dim + 8);
        // In the backward pass five tiles of bf16, and twice lse, delta and sight of every query of one.
        let shared = [2 * 2 * tile * row, 2 * 5 * tile * row + 2 * 20 * tile];
        Self { forward, dq, dkv, tile, threads: 128, shared }
    }

    /// A block for each tile of `n` rows and each head.
    fn grid(&self, n: usize, heads: usize, backward: bool) -> Grid {
        let shared = self.shared[usize::from(backward)];
        Grid { blocks: (heads, n.div_ceil(self.tile)), threads: self.threads, shared }
    }
}

/// What the kernels take last: visits of each tile, `sights, n, heads, kv_heads, head_dim, scale`.
fn last(visits: &[CardBuffer; 2], sights: &CardBuffer, n: usize, shape: AttentionShape) -> [Arg; 8] {
    let [heads, kv_heads, head_dim] = [shape.heads, shape.kv_heads, shape.head_dim].map(int);
    let [starts, list] = visits;
    [starts.into(), list.into(), sights.into(), int(n), heads, kv_heads, head_dim, shape.scale().into()]
}

/// Attention of a batch.
pub(crate) struct Own {
    card: Card,
    activations: DType,
    shape: AttentionShape,
    rows: usize,
    kernels: Kernels,
    tiles: Arc<CardTiles>,
}

/// Addresses of what the backward pass reads, and of what it writes.
#[derive(Clone, Copy)]
pub(crate) struct Backward {
    pub qkv: u64,
    pub out: u64,
    pub dout: u64,
    pub d_qkv: u64,
}

impl Own {
    pub fn new(card: &Card, activations: DType, shape: AttentionShape, segments: &Segments) -> Self {
        let kernels = Kernels::of(activations, shape.head_dim);
        let tiles = segments.tiles_on(card, kernels.tile);
        Self { card: card.clone(), activations, shape, rows: segments.rows(), kernels, tiles }
    }

    /// Writes the output and returns f32 `[h, n]`, the logarithm of the sum of each row's exponentials.
    pub fn forward(&self, qkv: u64, out: u64) -> Result<CardBuffer, CardError> {
        let Self { shape, rows, kernels, tiles, .. } = self;
        let lse = CardBuffer::stale(&self.card, shape.heads * rows * size_of::<f32>())?;
        let mut arguments = vec![qkv.into(), out.into(), (&lse).into()];
        arguments.extend(last(&tiles.keys, &tiles.sights, *rows, *shape));
        let grid = kernels.grid(*rows, shape.heads, false);
        self.card.launch(self.activations, kernels.forward, grid, &arguments)?;
        Ok(lse)
    }

    /// Writes the gradient of queries, keys and values.
    pub fn backward(&self, of: &Backward, lse: &CardBuffer) -> Result<(), CardError> {
        let Self { shape, rows, kernels, tiles, .. } = self;
        let n = *rows;
        let delta = CardBuffer::stale(&self.card, shape.heads * n * size_of::<f32>())?;
        let arguments =
            [of.out.into(), of.dout.into(), (&delta).into(), int(n), int(shape.heads), int(shape.head_dim)];
        // A warp for each row of a head.
        each(&self.card, self.activations, "attention_delta", 32 * n * shape.heads, &arguments);
        let passes = [(kernels.dq, &tiles.keys, shape.heads), (kernels.dkv, &tiles.queries, shape.kv_heads)];
        for (kernel, visits, heads) in passes {
            let mut arguments =
                vec![of.qkv.into(), of.dout.into(), lse.into(), (&delta).into(), of.d_qkv.into()];
            arguments.extend(last(visits, &tiles.sights, n, *shape));
            self.card.launch(self.activations, kernel, kernels.grid(n, heads, true), &arguments)?;
        }
        Ok(())
    }
}

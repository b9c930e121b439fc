//! `ops/attention` on a card, by kernels of our own: queries and keys are rotated into a copy that the backward pass
//! keeps in place of the input.

use super::rope::rotate;
use super::tiles::CardTiles;
use super::{each, int};
use crate::cuda::{Arg, CardBuffer, CardParams, DType, Grid, THREADS, expect};
use crate::tape::{Backward, Flow, Slot};
use crate::{Attention, AttentionShape, Tape, Tensor, Var};
use std::sync::Arc;

/// The widest head that there is a kernel for: `16 MOST_COLUMNS` of `attention.cu`.
const WIDEST: usize = 128;

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

struct Attended {
    qkv_slot: Slot,
    call: Attention,
    /// With queries and keys rotated.
    qkv: Tensor,
    out: Tensor,
    /// f32 `[h, n]`
    lse: CardBuffer,
    tiles: Arc<CardTiles>,
}

/// What the kernels take last: visits of each tile, `sights, n, heads, kv_heads, head_dim, scale`.
fn last(visits: &[CardBuffer; 2], sights: &CardBuffer, n: usize, shape: AttentionShape) -> [Arg; 8] {
    let [heads, kv_heads, head_dim] = [shape.heads, shape.kv_heads, shape.head_dim].map(int);
    let [starts, list] = visits;
    [starts.into(), list.into(), sights.into(), int(n), heads, kv_heads, head_dim, shape.scale().into()]
}

impl Tape<'_> {
    pub(crate) fn attention_on_card(&mut self, on: &CardParams, qkv: &Var, call: &Attention) -> Var {
        let (shape, n) = (call.shape, qkv.rows());
        assert!(
            shape.head_dim <= WIDEST,
            "attention: a card takes heads up to {WIDEST} wide, not {}",
            shape.head_dim
        );
        let rotated = match &call.rope {
            Some(rope) => rotate(qkv.value(), rope, shape.heads + shape.kv_heads, 1.0),
            None => qkv.value().clone(),
        };
        let out = Tensor::stale_on(on.card(), on.activations(), &[n, shape.heads * shape.head_dim]);
        let lse = expect(CardBuffer::stale(on.card(), shape.heads * n * size_of::<f32>()));
        let kernels = Kernels::of(on.activations(), shape.head_dim);
        let tiles = call.segments.tiles_on(on.card(), kernels.tile);
        let mut arguments = vec![rotated.arg(), out.arg(), (&lse).into()];
        arguments.extend(last(&tiles.keys, &tiles.sights, n, shape));
        let grid = kernels.grid(n, shape.heads, false);
        expect(on.card().launch(on.activations(), kernels.forward, grid, &arguments));
        let qkv_slot = self.slot(qkv);
        let attended =
            || Attended { qkv_slot, call: call.clone(), qkv: rotated, out: out.clone(), lse, tiles };
        self.push(out.clone(), attended)
    }
}

impl Backward for Attended {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let Self { qkv_slot, call, qkv, out, lse, tiles } = *self;
        let ((dout, dtype), n, shape) = (grad.place(), grad.rows(), call.shape);
        let card = dout.card();
        let delta = expect(CardBuffer::stale(card, shape.heads * n * size_of::<f32>()));
        let arguments =
            [out.arg(), dout.into(), (&delta).into(), int(n), int(shape.heads), int(shape.head_dim)];
        // A warp for each row of a head.
        each(card, dtype, "attention_delta", 32 * n * shape.heads, &arguments);
        drop(out);
        let d_qkv = Tensor::stale_on(card, dtype, qkv.shape());
        let kernels = Kernels::of(dtype, shape.head_dim);
        let passes = [(kernels.dq, &tiles.keys, shape.heads), (kernels.dkv, &tiles.queries, shape.kv_heads)];
        for (kernel, visits, heads) in passes {
            let mut arguments = vec![qkv.arg(), dout.into(), (&lse).into(), (&delta).into(), d_qkv.arg()];
            arguments.extend(last(visits, &tiles.sights, n, shape));
            expect(card.launch(dtype, kernel, kernels.grid(n, heads, true), &arguments));
        }
        drop(qkv);
        let d_qkv = match &call.rope {
            Some(rope) => rotate(&d_qkv, rope, shape.heads + shape.kv_heads, -1.0),
            None => d_qkv,
        };
        flow.give(qkv_slot, d_qkv);
    }
}

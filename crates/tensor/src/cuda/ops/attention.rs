//! `ops/attention` on a card, by kernels of our own: queries and keys are rotated into a copy that the backward pass
//! keeps in place of the input.

use super::rope::rotate;
use super::{each, int};
use crate::cuda::{Arg, CardBuffer, CardParams, expect};
use crate::tape::{Backward, Flow, Slot};
use crate::{Attention, Tape, Tensor, Var};

/// Rows that a block takes; `QUERIES` and `TILE` of the kernels.
const TILE: usize = 16;
/// The widest head; `WIDEST` of the kernels.
const WIDEST: usize = 128;

struct Attended {
    qkv_slot: Slot,
    call: Attention,
    /// With queries and keys rotated.
    qkv: Tensor,
    out: Tensor,
    /// f32 `[h, n]`
    lse: CardBuffer,
}

/// `n, heads, kv_heads, head_dim, scale`, as the kernels take them last.
fn sizes(call: &Attention) -> [Arg; 5] {
    let shape = call.shape;
    [
        int(call.segments.rows()),
        int(shape.heads),
        int(shape.kv_heads),
        int(shape.head_dim),
        shape.scale().into(),
    ]
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
        let rows = call.segments.card_rows(on.card());
        let arguments =
            [rotated.arg(), out.arg(), (&lse).into(), (&rows.prefix).into(), (&rows.first).into()];
        let arguments: Vec<Arg> = arguments.into_iter().chain(sizes(call)).collect();
        let blocks = (n.div_ceil(TILE), shape.heads);
        expect(on.card().launch(on.activations(), "attention", blocks, &arguments));
        let qkv_slot = self.slot(qkv);
        self.push(out.clone(), || Attended { qkv_slot, call: call.clone(), qkv: rotated, out, lse })
    }
}

impl Backward for Attended {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let Self { qkv_slot, call, qkv, out, lse } = *self;
        let ((dout, dtype), n, shape) = (grad.place(), grad.rows(), call.shape);
        let card = dout.card();
        let delta = expect(CardBuffer::stale(card, shape.heads * n * size_of::<f32>()));
        let arguments =
            [out.arg(), dout.into(), (&delta).into(), int(n), int(shape.heads), int(shape.head_dim)];
        each(card, dtype, "attention_delta", n * shape.heads, &arguments);
        drop(out);
        let d_qkv = Tensor::stale_on(card, dtype, qkv.shape());
        let rows = call.segments.card_rows(card);
        let common = [qkv.arg(), dout.into(), (&lse).into(), (&delta).into(), d_qkv.arg()];
        let seen = [Arg::from(&rows.prefix), (&rows.first).into()];
        let arguments: Vec<Arg> = common.into_iter().chain(seen).chain(sizes(&call)).collect();
        let blocks = n.div_ceil(TILE);
        expect(card.launch(dtype, "attention_dq", (blocks, shape.heads), &arguments));
        let last = [Arg::from(&rows.last)];
        let arguments: Vec<Arg> = common.into_iter().chain(seen).chain(last).chain(sizes(&call)).collect();
        expect(card.launch(dtype, "attention_dkv", (blocks, shape.kv_heads), &arguments));
        drop(qkv);
        let d_qkv = match &call.rope {
            Some(rope) => rotate(&d_qkv, rope, shape.heads + shape.kv_heads, -1.0),
            None => d_qkv,
        };
        flow.give(qkv_slot, d_qkv);
    }
}

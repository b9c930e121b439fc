//! `ops/attention` on a card, by cuDNN where it is trusted, else by kernels of our own: queries and keys are rotated into a
//! copy that the backward pass keeps in place of the input.

use super::own_attention::{self, Own, WIDEST};
use super::rope::rotate;
use crate::cuda::cudnn::{Fused, Gradients};
use crate::cuda::{Card, CardBuffer, CardError, CardParams, DType, expect};
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{Attention, Tape, Tensor, Var};

struct Attended {
    qkv_slot: Slot,
    call: Attention,
    /// With queries and keys rotated.
    qkv: Tensor,
    out: Tensor,
    /// Logarithms of sums: f32 `[h, n]`, or as cuDNN laid them out.
    stats: CardBuffer,
    fused: Option<Fused>,
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
        let (card, activations) = (on.card(), on.activations());
        let fused = card.fused(activations, shape, &call.segments);
        let out = Tensor::stale_on(card, activations, &[n, shape.heads * shape.head_dim]);
        let ((from, _), (to, _)) = (rotated.place(), out.place());
        let stats = expect(match &fused {
            Some(fused) => fused.forward(from, to),
            None => Own::new(card, activations, shape, &call.segments).forward(from.address(), to.address()),
        });
        let qkv_slot = self.slot(qkv);
        let attended =
            || Attended { qkv_slot, call: call.clone(), qkv: rotated, out: out.clone(), stats, fused };
        self.push(out.clone(), attended)
    }
}

impl Attended {
    /// The gradient of queries, keys and values into `d_qkv`.
    fn gradients(&self, card: &Card, grad: &Tensor, d_qkv: &CardBuffer) -> Result<(), CardError> {
        let (dout, dtype): (_, DType) = grad.place();
        let [qkv, out] = [&self.qkv, &self.out].map(|tensor| tensor.place().0);
        let way = self.fused.as_ref().and_then(|fused| Some((fused, fused.backward_way(card)?)));
        if let Some((fused, way)) = way {
            return fused.backward(way, Gradients { qkv, out, stats: &self.stats, dout, d_qkv });
        }
        let own = Own::new(card, dtype, self.call.shape, &self.call.segments);
        let [qkv, out, dout, d_qkv] = [qkv, out, dout, d_qkv].map(CardBuffer::address);
        let of = own_attention::Backward { qkv, out, dout, d_qkv };
        match &self.fused {
            Some(fused) => own.backward(&of, &fused.lse(&self.stats)?),
            None => own.backward(&of, &self.stats),
        }
    }
}

impl Backward for Attended {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let (card, dtype) = (grad.place().0.card(), grad.place().1);
        let d_qkv = Tensor::stale_on(card, dtype, self.qkv.shape());
        expect(self.gradients(card, &grad, d_qkv.place().0));
        let Self { qkv_slot, call, qkv, .. } = *self;
        drop(qkv);
        let d_qkv = match &call.rope {
            Some(rope) => {
                let heads = call.shape.heads + call.shape.kv_heads;
                rotate(&d_qkv, rope, heads, -1.0)
            }
            None => d_qkv,
        };
        flow.give(qkv_slot, d_qkv);
    }
}

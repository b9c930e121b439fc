//! `ops/swiglu.rs` on a card. The output is not kept, and the gradient takes the place of the input.

use super::{each, int};
use crate::cuda::CardParams;
use crate::tape::{Again, Backward, Slot};
use crate::walk::Flow;
use crate::{Params, Tape, Tensor, Var};
use std::sync::Arc;

struct Gated(Tensor);

struct SwiGlu {
    x: Slot,
    gate_up: Arc<Gated>,
}

fn forward(gate_up: &Tensor) -> Tensor {
    let ((from, dtype), f) = (gate_up.place(), gate_up.row_len() / 2);
    let out = Tensor::stale_on(from.card(), dtype, &[gate_up.rows(), f]);
    each(from.card(), dtype, "swiglu", out.len(), &[from.into(), out.arg(), out.len().into(), int(f)]);
    out
}

impl Tape<'_> {
    pub(crate) fn swiglu_on_card(&mut self, _: &CardParams, gate_up: &Var) -> Var {
        let out = forward(gate_up.value());
        let slot = self.slot(gate_up);
        let state = Arc::new(Gated(gate_up.value().clone()));
        self.push_again(out, Arc::clone(&state) as Arc<dyn Again>, || SwiGlu { x: slot, gate_up: state })
    }
}

impl Again for Gated {
    fn compute(&self, _: &Params) -> Tensor {
        forward(&self.0)
    }
}

impl Backward for SwiGlu {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let mut gate_up = match Arc::try_unwrap(self.gate_up) {
            Ok(Gated(tensor)) => tensor,
            Err(shared) => shared.0.clone(),
        };
        gate_up.make_unique();
        let ((dy, dtype), count) = (grad.place(), grad.len());
        let arguments = [gate_up.arg(), dy.into(), count.into(), int(grad.row_len())];
        each(dy.card(), dtype, "swiglu_backward", count, &arguments);
        flow.give(self.x, gate_up);
    }
}

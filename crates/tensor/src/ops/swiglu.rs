//! SwiGLU (arXiv 2002.05202): `y = silu(g) u` for rows `[g | u]` with `g, u, y [n, f]`, `silu(g) = g s(g)`,
//! `s(g) = 1 / (1 + e^-g)`; `dg = dy u (s + g s (1 - s))`, `du = dy silu(g)`.
//!
//! The output is not kept: consumers compute it again. The gradient takes the place of the input where nobody else
//! needs it any more.

use crate::kernels::{rows::swiglu_backward, swiglu};
use crate::tape::{Again, Backward, Slot};
use crate::walk::Flow;
use crate::{Params, Tape, Tensor, Var, profile};
use std::borrow::Borrow;
use std::sync::Arc;

struct Gated(Tensor);

struct SwiGlu {
    x: Slot,
    gate_up: Arc<Gated>,
}

fn forward(gate_up: &Tensor) -> Tensor {
    let f = gate_up.row_len() / 2;
    let mut out = Tensor::stale(&[gate_up.rows(), f]);
    swiglu(gate_up.as_slice(), out.make_mut(), f);
    out
}

impl Tape<'_> {
    /// `silu(gate) * up` for `gate_up [n, 2 f]` with the gate in the first `f` columns: `[n, f]`.
    pub fn swiglu(&mut self, gate_up: impl Borrow<Var>) -> Var {
        let gate_up = gate_up.borrow();
        assert!(
            gate_up.width() > 0 && gate_up.width().is_multiple_of(2),
            "swiglu: {:?} is not gate and up",
            gate_up.shape()
        );
        let _span = profile::span("swiglu");
        if let Some(on) = self.params().on_card() {
            return self.swiglu_on_card(on, gate_up);
        }
        let out = forward(gate_up.value());
        let slot = self.slot(gate_up);
        let state = Arc::new(Gated(gate_up.value().clone()));
        self.push_again(out, Arc::clone(&state) as Arc<dyn Again>, || SwiGlu { x: slot, gate_up: state })
    }
}

impl Again for Gated {
    fn compute(&self, _: &Params) -> Tensor {
        let _span = profile::span("swiglu again");
        forward(&self.0)
    }
}

impl Backward for SwiGlu {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let mut gate_up = match Arc::try_unwrap(self.gate_up) {
            Ok(Gated(tensor)) => tensor,
            Err(shared) => shared.0.clone(),
        };
        swiglu_backward(grad.as_slice(), gate_up.make_mut(), grad.row_len());
        flow.give(self.x, gate_up);
    }
}

//! Residual connection: `y = a + b`; `da = dy`, `db = dy`.

use crate::kernels::rows;
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{Tape, Tensor, Var, profile};

struct Add {
    a: Slot,
    b: Slot,
}

impl Tape<'_> {
    /// `a + b`, of the same shape.
    pub fn add(&mut self, a: &Var, b: &Var) -> Var {
        assert_eq!(a.shape(), b.shape(), "add: shapes differ");
        let _span = profile::span("add");
        if self.params().on_card().is_some() {
            let out = a.value().plus_on_card(b.value());
            let state = Add { a: self.slot(a), b: self.slot(b) };
            return self.push(out, || state);
        }
        let mut out = Tensor::stale(a.shape());
        rows::add(out.make_mut(), a.value().as_slice(), b.value().as_slice());
        let state = Add { a: self.slot(a), b: self.slot(b) };
        self.push(out, || state)
    }
}

impl Backward for Add {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        flow.give(self.a, grad.clone());
        flow.give(self.b, grad);
    }
}

//! Linear layer: `y = x w^T (+ r)` with `x [n, in]`, `w [out, in]`, `r, y [n, out]`;
//! `dx = dy w`, `dw += dy^T x`, `dr = dy`.

use crate::kernels::matmul::{Into, Strided, product};
use crate::tape::{Backward, Saved, Slot};
use crate::walk::Flow;
use crate::{ParamId, Tape, Tensor, Var, profile};
use std::borrow::Borrow;

struct Linear {
    x: Slot,
    saved: Saved,
    w: ParamId,
    residual: Slot,
}

impl<'p> Tape<'p> {
    /// `x w^T` for `x [n, in]` and `w [out, in]`: `[n, out]`.
    pub fn linear(&mut self, x: impl Borrow<Var>, w: ParamId) -> Var {
        self.linear_into(x.borrow(), w, None, true)
    }

    /// `residual + x w^T`, in one pass.
    pub fn linear_add(&mut self, x: impl Borrow<Var>, w: ParamId, residual: &Var) -> Var {
        self.linear_into(x.borrow(), w, Some(residual), true)
    }

    /// [`Tape::linear_add`] as the last operator of a block that may be computed again ([`Tape::segment`]): then its
    /// product is left out, since the walk back reads what goes into it, not what comes out. Nothing may follow it there
    /// (that panics), and the variable has no value.
    pub fn linear_add_last(&mut self, x: impl Borrow<Var>, w: ParamId, residual: &Var) -> Var {
        let out = self.linear_into(x.borrow(), w, Some(residual), !self.computes_again());
        self.end_block();
        out
    }

    fn linear_into(&mut self, x: &Var, w: ParamId, residual: Option<&Var>, compute: bool) -> Var {
        let _span = profile::span("linear");
        let (n, inputs) = (x.rows(), x.width());
        let outputs = self.matrix(w, inputs, "linear");
        if let Some(residual) = residual {
            assert_eq!(residual.shape(), [n, outputs], "linear_add: shape of the residual");
        }
        if let Some(on) = self.params().on_card() {
            return self.linear_on_card(on, x, w, residual, compute);
        }
        let mut out = Tensor::stale(&[n, outputs]);
        let w_rows = Strided::rows(self.weight(w), inputs);
        if compute {
            let into = match residual {
                None => Into::Overwrite,
                Some(residual) => {
                    out.make_mut().copy_from_slice(residual.value().as_slice());
                    Into::Add
                }
            };
            let x = Strided::rows(x.value().as_slice(), inputs);
            product((n, outputs, inputs), x, w_rows.t(), into, out.make_mut());
        }
        let x_slot = self.slot(x);
        let residual = residual.map_or(Slot::NONE, |r| self.slot(r));
        self.push(out, || Linear { x: x_slot, saved: Saved::new(x), w, residual })
    }

    /// Checks that `w` is `[out, inputs]` and returns `out`.
    pub(crate) fn matrix(&self, w: ParamId, inputs: usize, operator: &str) -> usize {
        let spec = self.params().spec(w);
        assert!(
            spec.shape.len() == 2 && spec.shape[1] == inputs,
            "{operator}: {} has shape {:?}, the input is {inputs} wide",
            spec.name,
            spec.shape
        );
        spec.shape[0]
    }
}

impl Backward for Linear {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let (n, outputs) = (grad.rows(), grad.row_len());
        let params = flow.params;
        let inputs = params.shape(self.w)[1];
        let dy = Strided::rows(grad.as_slice(), outputs);
        {
            let x = self.saved.tensor(params);
            let (dw, into) = flow.grads.target(self.w);
            product((outputs, inputs, n), dy.t(), Strided::rows(x.as_slice(), inputs), into, dw);
        }
        let w = Strided::rows(params.value(self.w), inputs);
        flow.accumulate(self.x, &[n, inputs], |dx, into| product((n, inputs, outputs), dy, w, into, dx));
        flow.give(self.residual, grad);
    }
}

//! `ops/linear.rs` on a card: products by cuBLASLt.

use crate::cuda::{CardParams, DType, Mat, Product, expect};
use crate::tape::{Backward, Saved, Slot};
use crate::walk::Flow;
use crate::{ParamId, Tape, Tensor, Var};

struct Linear {
    x: Slot,
    saved: Saved,
    w: ParamId,
    residual: Slot,
}

/// A tensor's rows as an operand.
pub(super) fn mat(tensor: &Tensor) -> Mat {
    let (buffer, dtype) = tensor.place();
    Mat::rows(buffer.address(), dtype, tensor.row_len())
}

impl Tape<'_> {
    pub(crate) fn linear_on_card(
        &mut self,
        on: &CardParams,
        x: &Var,
        w: ParamId,
        residual: Option<&Var>,
        compute: bool,
    ) -> Var {
        let (n, inputs, outputs) = (x.rows(), x.width(), self.params().shape(w)[0]);
        let out = Tensor::stale_on(on.card(), on.activations(), &[n, outputs]);
        if compute {
            expect(on.card().product(&Product {
                sizes: (n, outputs, inputs),
                a: mat(x.value()),
                b: Mat::rows(self.params().act_address(w), on.activations(), inputs).t(),
                out: mat(&out),
                add: residual.map(|residual| residual.value().place().0.address()),
                scales: None,
            }));
        }
        let x_slot = self.slot(x);
        let residual = residual.map_or(Slot::NONE, |r| self.slot(r));
        self.push(out, || Linear { x: x_slot, saved: Saved::new(x), w, residual })
    }
}

impl Backward for Linear {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let (n, outputs) = (grad.rows(), grad.row_len());
        let params = flow.params;
        let inputs = params.shape(self.w)[1];
        let (dy, dtype, card) = (mat(&grad), grad.place().1, grad.place().0.card());
        {
            let x = self.saved.tensor(params);
            let dw = flow.grads.address_mut(self.w);
            expect(card.product(&Product {
                sizes: (outputs, inputs, n),
                a: dy.t(),
                b: mat(&x),
                out: Mat::rows(dw, DType::F32, inputs),
                add: Some(dw),
                scales: None,
            }));
        }
        let w = Mat::rows(params.act_address(self.w), dtype, inputs);
        flow.accumulate_on_card(self.x, dtype, &[n, inputs], |dx, add| {
            let out = mat(dx);
            let add = add.then_some(out.address);
            expect(card.product(&Product {
                sizes: (n, inputs, outputs),
                a: dy,
                b: w,
                out,
                add,
                scales: None,
            }));
        });
        flow.give(self.residual, grad);
    }
}

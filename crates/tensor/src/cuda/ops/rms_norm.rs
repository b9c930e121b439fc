//! `ops/rms_norm.rs` on a card. The output is not kept there either.

use super::{each, int};
use crate::cuda::{Arg, CardBuffer, CardParams, THREADS, expect};
use crate::tape::{Again, Backward, Slot};
use crate::walk::Flow;
use crate::{ParamId, Params, Tape, Tensor, Var};
use std::sync::Arc;

/// Rows that are summed by one thread of a column, at least, and shares of the rows, at most: part of the result's bits.
const ROWS: usize = 64;
const SHARES: usize = 128;

struct Normed {
    x: Tensor,
    /// f32 `[n]`
    rstd: CardBuffer,
    w: ParamId,
    eps: f32,
}

struct RmsNorm {
    x: Slot,
    state: Arc<Normed>,
}

impl Normed {
    /// The output; `rstd` is written, each time with the same bits.
    fn forward(&self, params: &Params) -> Tensor {
        let (x, dtype) = self.x.place();
        let out = Tensor::stale_on(x.card(), dtype, self.x.shape());
        let nothing = Arg::from(0u64);
        let w = params.f32_address(self.w).into();
        let d = int(self.x.row_len());
        let arguments = [x.into(), nothing, nothing, w, out.arg(), (&self.rstd).into(), d, self.eps.into()];
        expect(x.card().launch(dtype, "rms_norm", (self.x.rows(), 1), &arguments));
        out
    }
}

impl Tape<'_> {
    pub(crate) fn rms_norm_on_card(&mut self, on: &CardParams, x: &Var, w: ParamId, eps: f32) -> Var {
        let rstd = expect(CardBuffer::stale(on.card(), x.rows() * size_of::<f32>()));
        let state = Arc::new(Normed { x: x.value().clone(), rstd, w, eps });
        let out = state.forward(self.params());
        let slot = self.slot(x);
        self.push_again(out, Arc::clone(&state) as Arc<dyn Again>, || RmsNorm { x: slot, state })
    }
}

impl Again for Normed {
    fn compute(&self, params: &Params) -> Tensor {
        self.forward(params)
    }
}

impl Backward for RmsNorm {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let Normed { x, rstd, w, .. } = &*self.state;
        let ((dy, dtype), d) = (grad.place(), x.row_len());
        let card = dy.card();
        let weight = flow.params.f32_address(*w);
        flow.accumulate_on_card(self.x, dtype, grad.shape(), |dx, add| {
            let arguments =
                [x.arg(), weight.into(), rstd.into(), dy.into(), dx.arg(), int(d), i32::from(add).into()];
            expect(card.launch(dtype, "rms_norm_dx", (grad.rows(), 1), &arguments));
        });
        let (n, dw) = (grad.rows(), flow.grads.address_mut(*w));
        let rows = n.div_ceil(SHARES).max(ROWS);
        let count = n.div_ceil(rows);
        let shares = expect(CardBuffer::stale(card, count * d * size_of::<f32>()));
        let arguments = [x.arg(), rstd.into(), dy.into(), (&shares).into(), int(n), int(d), int(rows)];
        expect(card.launch(dtype, "rms_norm_dw", (d.div_ceil(THREADS), count), &arguments));
        each(card, dtype, "add_shares", d, &[(&shares).into(), dw.into(), int(count), int(d)]);
    }
}

//! `ops/rope.rs` on a card.

use super::{each, int};
use crate::cuda::CardParams;
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{Rope, Tape, Tensor, Var};

struct Rotated {
    x: Slot,
    rope: Rope,
}

/// Rotates the first `rotated` heads of every row of `x` and copies the others; `direction` -1 turns back.
pub(super) fn rotate(x: &Tensor, rope: &Rope, rotated: usize, direction: f32) -> Tensor {
    let ((from, dtype), half) = (x.place(), rope.head_dim() / 2);
    let out = Tensor::stale_on(from.card(), dtype, x.shape());
    let (angles, positions) = rope.on_card(from.card());
    let (pairs, heads) = (x.len() / 2, x.row_len() / rope.head_dim());
    let sizes = [pairs.into(), int(heads), int(rotated), int(half)];
    let arguments =
        [from.into(), out.arg(), (&angles.cos).into(), (&angles.sin).into(), (&*positions).into()];
    let arguments: Vec<_> = arguments.into_iter().chain(sizes).chain([direction.into()]).collect();
    each(from.card(), dtype, "rope", pairs, &arguments);
    out
}

impl Tape<'_> {
    pub(crate) fn rope_on_card(&mut self, _: &CardParams, x: &Var, rope: &Rope) -> Var {
        let out = rotate(x.value(), rope, x.width() / rope.head_dim(), 1.0);
        let slot = self.slot(x);
        self.push(out, || Rotated { x: slot, rope: rope.clone() })
    }
}

impl Backward for Rotated {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        flow.give(self.x, rotate(&grad, &self.rope, grad.row_len() / self.rope.head_dim(), -1.0));
    }
}

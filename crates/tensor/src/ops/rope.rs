//! Rotary position embedding by itself (attention has it built in): each head of row `i` is rotated by the angles of
//! `positions[i]`; the backward pass rotates the gradient back. `x, y [n, heads * head_dim]`.

use crate::kernels::rows::rotate;
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{Rope, Tape, Tensor, Var, profile};
use rayon::prelude::*;

struct Rotated {
    x: Slot,
    rope: Rope,
}

fn rotate_rows(x: &mut [f32], width: usize, rope: &Rope, direction: f32) {
    x.par_chunks_mut(width).enumerate().for_each(|(row, x)| {
        let (cos, sin) = rope.row(row);
        rotate(x, cos, sin, direction);
    });
}

impl Tape<'_> {
    /// Rotates every head of `x [n, heads * head_dim]` by the positions of its row.
    pub fn rope(&mut self, x: &Var, rope: &Rope) -> Var {
        assert!(
            x.rows() == rope.rows() && x.width().is_multiple_of(rope.head_dim()),
            "rope: x has shape {:?}, the positions are for {} rows and heads of {}",
            x.shape(),
            rope.rows(),
            rope.head_dim()
        );
        let _span = profile::span("rope");
        if let Some(on) = self.params().on_card() {
            return self.rope_on_card(on, x, rope);
        }
        let mut out = Tensor::from_slice(x.value().as_slice(), x.shape());
        rotate_rows(out.make_mut(), x.width(), rope, 1.0);
        let slot = self.slot(x);
        self.push(out, || Rotated { x: slot, rope: rope.clone() })
    }
}

impl Backward for Rotated {
    fn backward(self: Box<Self>, mut grad: Tensor, flow: &mut Flow<'_>) {
        let width = grad.row_len();
        rotate_rows(grad.make_mut(), width, &self.rope, -1.0);
        flow.give(self.x, grad);
    }
}

//! SwiGLU on a card.

use super::{Place, int, read, size};
use crate::Tensor;
use crate::cuda::card::{Arg, Grid};

/// `silu(gate) up` for rows `[gate | up]`.
pub fn forward(gate_up: &Tensor) -> Tensor {
    let (place, n, f) = (Place::of(gate_up), gate_up.rows(), gate_up.row_len() / 2);
    let mut out = place.stale(&[n, f]);
    let args = [read(gate_up), Arg::Word(out.at_mut()), size(n * f), int(f)];
    place.card.launch(place.dtype, c"swiglu", Grid::values(n * f), &args);
    out
}

/// Turns `gate_up` into its gradient.
pub fn backward(dy: &Tensor, gate_up: &mut Tensor) {
    let place = Place::of(dy);
    let args = [Arg::Word(gate_up.at_mut()), read(dy), size(dy.len()), int(dy.row_len())];
    place.card.launch(place.dtype, c"swiglu_backward", Grid::values(dy.len()), &args);
}

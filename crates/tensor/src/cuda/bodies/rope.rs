//! Rotary positions on a card.

use super::{Place, int, read, size, uploaded};
use crate::cuda::Block;
use crate::cuda::card::{Arg, Grid};
use crate::{Rope, Tensor};
use std::sync::Arc;

/// The blocks `[cos, sin]` of all positions up to the highest in use, and `[positions]`.
fn tables(place: Place, rope: &Rope) -> (Arc<Vec<Block>>, Arc<Vec<Block>>) {
    let (data, table, positions) = rope.parts();
    let highest = positions.iter().max().map_or(0, |p| *p as usize);
    let count = (highest + 1).next_power_of_two().min(table.positions());
    let card = place.card;
    let angles = card.cached().get(data, ("angles", count), || {
        let half = table.head_dim() / 2;
        let (mut cos, mut sin) = (Vec::with_capacity(count * half), Vec::with_capacity(count * half));
        for position in 0..count {
            let (c, s) = table.row(position);
            cos.extend_from_slice(c);
            sin.extend_from_slice(s);
        }
        vec![uploaded(card, &cos), uploaded(card, &sin)]
    });
    let positions = card.cached().get(positions, ("positions", 0), || vec![uploaded(card, positions)]);
    (angles, positions)
}

fn run(x: &Tensor, to: u64, rope: &Rope, heads: usize, rotated: usize, direction: f32) {
    let place = Place::of(x);
    let half = rope.head_dim() / 2;
    let (angles, positions) = tables(place, rope);
    let pairs = x.rows() * heads * half;
    let args = [
        read(x),
        Arg::Word(to),
        Arg::Word(angles[0].at()),
        Arg::Word(angles[1].at()),
        Arg::Word(positions[0].at()),
        size(pairs),
        int(heads),
        int(rotated),
        int(half),
        Arg::Float(direction),
    ];
    place.card.launch(place.dtype, c"rope", Grid::values(pairs), &args);
}

/// `x [n, heads head_dim]` with its first `rotated` heads rotated.
pub fn rotated(x: &Tensor, rope: &Rope, rotated: usize, direction: f32) -> Tensor {
    let mut out = Place::of(x).stale(x.shape());
    run(x, out.at_mut(), rope, x.row_len() / rope.head_dim(), rotated, direction);
    out
}

/// The same in place.
pub fn rotate(x: &mut Tensor, rope: &Rope, rotated: usize, direction: f32) {
    let to = x.at_mut();
    run(x, to, rope, x.row_len() / rope.head_dim(), rotated, direction);
}

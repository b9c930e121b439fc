//! Embedding on a card.

use super::{Place, at, int, read, size, uploaded};
use crate::cuda::Block;
use crate::cuda::card::{Arg, Grid};
use crate::{Grads, ParamId, Params, Tensor};

/// Rows of an id, so that each distinct row of the gradient is summed by one thread, in order.
pub struct Sorted {
    distinct: Block,
    starts: Block,
    rows: Block,
    count: usize,
}

/// `y[i] = w[ids[i]]`.
pub fn forward(params: &Params, place: Place, w: ParamId, ids: &[u32]) -> Tensor {
    let d = params.shape(w)[1];
    let mut out = place.stale(&[ids.len(), d]);
    let table = params.matrix_at(w);
    let on_card = uploaded(place.card, ids);
    let args = [Arg::Word(table), at(&on_card), Arg::Word(out.at_mut()), size(ids.len() * d), int(d)];
    place.card.launch(place.dtype, c"embedding", Grid::values(ids.len() * d), &args);
    out
}

/// Sorts rows by id, stably, and takes the result to the card.
pub fn sorted(place: Place, ids: &[u32]) -> Sorted {
    let mut rows: Vec<u32> = (0..ids.len() as u32).collect();
    rows.sort_by_key(|row| ids[*row as usize]);
    let (mut distinct, mut starts) = (Vec::new(), Vec::new());
    for (place, &row) in rows.iter().enumerate() {
        let id = ids[row as usize];
        if distinct.last() != Some(&id) {
            distinct.push(id);
            starts.push(place as u32);
        }
    }
    starts.push(rows.len() as u32);
    let card = place.card;
    Sorted {
        count: distinct.len(),
        distinct: uploaded(card, &distinct),
        starts: uploaded(card, &starts),
        rows: uploaded(card, &rows),
    }
}

/// `dw[ids[i]] += dy[i]`.
pub fn backward(sorted: &Sorted, dy: &Tensor, w: ParamId, grads: &mut Grads) {
    let (place, d) = (Place::of(dy), dy.row_len());
    let dw = Arg::Word(grads.at_mut(w));
    let values = sorted.count * d;
    let args =
        [read(dy), at(&sorted.distinct), at(&sorted.starts), at(&sorted.rows), dw, size(values), int(d)];
    place.card.launch(place.dtype, c"embedding_backward", Grid::values(values), &args);
}

//! Row selection on a card.

use super::{Place, adds, at, int, read, size, uploaded};
use crate::Tensor;
use crate::cuda::card::{Arg, Grid};
use crate::kernels::matmul::Into;

/// `y[i] = x[rows[i]]`.
pub fn gather(x: &Tensor, rows: &[usize]) -> Tensor {
    let (place, d) = (Place::of(x), x.row_len());
    let ids: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
    let ids = uploaded(place.card, &ids);
    let mut out = place.stale(&[rows.len(), d]);
    let args = [read(x), at(&ids), Arg::Word(out.at_mut()), size(rows.len() * d), int(d)];
    place.card.launch(place.dtype, c"gather_rows", Grid::values(rows.len() * d), &args);
    out
}

/// `dx[rows[i]] += dy[i]`, or the same into zeros.
pub fn scatter(dy: &Tensor, rows: &[usize], dx: &mut Tensor, into: Into) {
    let (place, n, d) = (Place::of(dy), dx.rows(), dy.row_len());
    let mut starts = vec![0u32; n + 1];
    rows.iter().for_each(|row| starts[row + 1] += 1);
    (0..n).for_each(|i| starts[i + 1] += starts[i]);
    let mut from: Vec<u32> = (0..rows.len() as u32).collect();
    from.sort_by_key(|i| rows[*i as usize]);
    let (starts, from) = (uploaded(place.card, &starts), uploaded(place.card, &from));
    let args = [read(dy), at(&starts), at(&from), Arg::Word(dx.at_mut()), size(n * d), int(d), adds(into)];
    place.card.launch(place.dtype, c"scatter_rows", Grid::values(n * d), &args);
}

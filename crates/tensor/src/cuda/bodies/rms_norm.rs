//! RMSNorm on a card.

use super::{Place, adds, at, int, read, size};
use crate::cuda::DType;
use crate::cuda::card::{Arg, Grid, THREADS};
use crate::kernels::matmul::Into;
use crate::{Grads, ParamId, Params, Tensor};

/// Rows whose share of the weight's gradient one thread adds up.
const SHARE_ROWS: usize = 64;

/// The normalised rows, and `rstd [n]`.
pub fn forward(params: &Params, x: &Tensor, w: ParamId, eps: f32) -> (Tensor, Tensor) {
    let (place, d) = (Place::of(x), x.row_len());
    let mut out = place.stale(x.shape());
    let mut rstd = Tensor::stale_on(place.card, DType::F32, &[x.rows()]);
    let (y, r) = (Arg::Word(out.at_mut()), Arg::Word(rstd.at_mut()));
    let args = [read(x), Arg::Word(params.at(w)), y, r, int(d), Arg::Float(eps)];
    place.card.launch(place.dtype, c"rms_norm", Grid::rows(x.rows()), &args);
    (out, rstd)
}

/// The normalised rows again.
pub fn again(params: &Params, x: &Tensor, rstd: &Tensor, w: ParamId) -> Tensor {
    let place = Place::of(x);
    let mut out = place.stale(x.shape());
    let y = Arg::Word(out.at_mut());
    let args = [read(x), Arg::Word(params.at(w)), read(rstd), y, size(x.len()), int(x.row_len())];
    place.card.launch(place.dtype, c"rms_norm_again", Grid::values(x.len()), &args);
    out
}

/// The gradient of `x`, written or added.
pub fn backward_x(
    params: &Params,
    x: &Tensor,
    rstd: &Tensor,
    w: ParamId,
    dy: &Tensor,
    dx: &mut Tensor,
    into: Into,
) {
    let place = Place::of(x);
    let to = Arg::Word(dx.at_mut());
    let weight = Arg::Word(params.at(w));
    let args = [read(x), weight, read(rstd), read(dy), to, int(x.row_len()), adds(into)];
    place.card.launch(place.dtype, c"rms_norm_dx", Grid::rows(x.rows()), &args);
}

/// Adds the gradient of `w`: shares of rows, then their sum in order.
pub fn backward_w(x: &Tensor, rstd: &Tensor, w: ParamId, dy: &Tensor, grads: &mut Grads) {
    let (place, n, d) = (Place::of(x), x.rows(), x.row_len());
    let count = n.div_ceil(SHARE_ROWS);
    let shares = place.card.block(4 * count * d);
    let columns = d.div_ceil(THREADS);
    let grid = Grid { blocks: [columns, count, 1], threads: THREADS, shared: 0 };
    let args = [read(x), read(rstd), read(dy), at(&shares), int(n), int(d), int(SHARE_ROWS)];
    place.card.launch(place.dtype, c"rms_norm_dw", grid, &args);
    let args = [at(&shares), Arg::Word(grads.at_mut(w)), int(count), int(d)];
    place.card.launch(place.dtype, c"add_shares", Grid::rows(columns), &args);
}

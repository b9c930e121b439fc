//! The card's body of each operator, one file beside the CPU's name; formulas and shapes are there, kernels in
//! `../kernels`. An operator asks for work and returns at once; only reading a result waits.

mod add;
mod attention;
mod embedding;
mod linear;
mod loss;
pub(super) mod own_attention;
mod rms_norm;
mod rope;
mod swiglu;
mod tiles;

use super::{Arg, Card, DType, THREADS, expect};
pub(crate) use tiles::CardTiles;

/// Asks for a kernel with one thread for each of `count` values.
fn each(card: &Card, activations: DType, kernel: &'static str, count: usize, arguments: &[Arg]) {
    expect(card.launch(activations, kernel, (count.div_ceil(THREADS), 1), arguments));
}

/// A size as kernels take it. Panics beyond 2^31.
#[track_caller]
fn int(size: usize) -> Arg {
    i32::try_from(size)
        .unwrap_or_else(|_| panic!("a size of {size} is too large for a card's kernels"))
        .into()
}

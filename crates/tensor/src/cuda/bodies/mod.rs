//! The operators' bodies on a card: the counterparts of the CPU's, called by the operators of `ops/` where their input
//! lies on a card. Here are shapes, launches and products; formulas are in the operators and the kernels.

pub mod adamw;
pub mod attention;
pub mod embedding;
pub mod linear;
pub mod loss;
pub mod rms_norm;
pub mod rope;
pub mod rows;
pub mod swiglu;

use super::api::driver::DevicePtr;
use super::card::{Arg, Grid};
use super::{Block, Card, DType};
use crate::Tensor;
use crate::kernels::matmul::Into;

/// Where a tape computes: a card, and the type of its activations.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub card: Card,
    pub dtype: DType,
}

impl Place {
    /// A tensor of activations whose values must be written.
    pub fn stale(self, shape: &[usize]) -> Tensor {
        Tensor::stale_on(self.card, self.dtype, shape)
    }

    /// The place of a tensor on a card.
    pub fn of(x: &Tensor) -> Self {
        Self { card: x.card().expect("the body of a card"), dtype: x.dtype() }
    }
}

/// Numbers of the host on the card.
pub(super) fn uploaded<T: bytemuck::Pod>(card: Card, values: &[T]) -> Block {
    let block = card.block(size_of_val(values));
    let result = card.staging().upload(card, block.at(), bytemuck::cast_slice(values));
    result.unwrap_or_else(|error| panic!("card: {error}"));
    block
}

pub(super) fn at(block: &Block) -> Arg {
    Arg::Word(block.at())
}

pub(super) fn read(x: &Tensor) -> Arg {
    Arg::Word(x.at())
}

pub(super) fn size(count: usize) -> Arg {
    Arg::Word(count as u64)
}

pub(super) fn int(value: usize) -> Arg {
    Arg::Int(u32::try_from(value).expect("a size of a kernel is below 2^32"))
}

/// 1 if the body adds to its output.
pub(super) fn adds(into: Into) -> Arg {
    Arg::Int(u32::from(into == Into::Add))
}

/// `sum += x`.
pub fn add_into(sum: &mut Tensor, x: &Tensor) {
    let place = Place::of(x);
    assert_eq!((sum.dtype(), sum.len()), (x.dtype(), x.len()), "add: types or lengths differ");
    if !sum.is_unique() {
        *sum = add(sum, x);
        return;
    }
    let to = Arg::Word(sum.at_mut());
    place.card.launch(place.dtype, c"add", Grid::values(x.len()), &[to, read(x), to, size(x.len())]);
}

/// `a + b`.
pub fn add(a: &Tensor, b: &Tensor) -> Tensor {
    let place = Place::of(a);
    let mut out = place.stale(a.shape());
    let to = Arg::Word(out.at_mut());
    place.card.launch(place.dtype, c"add", Grid::values(a.len()), &[read(a), read(b), to, size(a.len())]);
    out
}

/// `out[i] = x[i]` rounded to bf16, for `count` values.
pub fn cast_to_bf16(place: Place, x: DevicePtr, out: DevicePtr, count: usize) {
    let args = [Arg::Word(x), Arg::Word(out), size(count)];
    place.card.launch(place.dtype, c"cast_to_bf16", Grid::values(count), &args);
}

/// `out += x factor`, all f32; the factor is a tensor of one.
pub fn add_scaled_f32(place: Place, out: DevicePtr, x: &Tensor, factor: &Tensor) {
    assert_eq!((x.dtype(), factor.dtype()), (DType::F32, DType::F32), "add_scaled: types");
    let args = [Arg::Word(out), read(x), read(factor), size(x.len())];
    place.card.launch(place.dtype, c"add_scaled_f32", Grid::values(x.len()), &args);
}

/// `x *= factor`, a tensor of one f32.
pub fn scale(x: &mut Tensor, factor: &Tensor) {
    assert_eq!(factor.dtype(), DType::F32, "scale: the factor is f32");
    let place = Place::of(x);
    let args = [Arg::Word(x.at_mut()), read(factor), size(x.len())];
    place.card.launch(place.dtype, c"scale", Grid::values(x.len()), &args);
}

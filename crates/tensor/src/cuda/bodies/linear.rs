//! Linear layers on a card: products of cuBLASLt, the residual added by it.

use super::Place;
use crate::cuda::DType;
use crate::cuda::api::driver::DevicePtr;
use crate::cuda::products::{Operand, Product};
use crate::kernels::matmul::Into;
use crate::{Grads, ParamId, Params, Tensor, profile};

/// An operand in rows.
pub fn rows(at: DevicePtr, dtype: DType) -> Operand {
    Operand { at, dtype, transposed: false }
}

/// The transpose of what is stored in rows.
pub fn columns(at: DevicePtr, dtype: DType) -> Operand {
    Operand { at, dtype, transposed: true }
}

/// Enqueues a product.
pub fn run(place: Place, product: Product) {
    let name = match (product.a.transposed, product.b.transposed) {
        (false, false) => "nn",
        (false, true) => "nt",
        (true, false) => "tn",
        (true, true) => "tt",
    };
    let _span = profile::product(name, product.sizes);
    place.card.products().run(&product);
}

/// `x w^T (+ residual)`.
pub fn forward(params: &Params, x: &Tensor, w: ParamId, residual: Option<&Tensor>) -> Tensor {
    let place = Place::of(x);
    let (n, inputs, outputs) = (x.rows(), x.row_len(), params.shape(w)[0]);
    let mut out = place.stale(&[n, outputs]);
    run(
        place,
        Product {
            sizes: (n, outputs, inputs),
            a: rows(x.at(), place.dtype),
            b: columns(params.matrix_at(w), place.dtype),
            add: residual.map(Tensor::at),
            out: out.at_mut(),
            out_type: place.dtype,
        },
    );
    out
}

/// `dw += dy^T x`, in f32.
pub fn backward_w(x: &Tensor, dy: &Tensor, w: ParamId, grads: &mut Grads) {
    let place = Place::of(dy);
    let dw = grads.at_mut(w);
    run(
        place,
        Product {
            sizes: (dy.row_len(), x.row_len(), x.rows()),
            a: columns(dy.at(), place.dtype),
            b: rows(x.at(), place.dtype),
            add: Some(dw),
            out: dw,
            out_type: DType::F32,
        },
    );
}

/// `dx (+)= dy w`.
pub fn backward_x(params: &Params, dy: &Tensor, w: ParamId, dx: &mut Tensor, into: Into) {
    let place = Place::of(dy);
    let out = dx.at_mut();
    run(
        place,
        Product {
            sizes: (dy.rows(), params.shape(w)[1], dy.row_len()),
            a: rows(dy.at(), place.dtype),
            b: rows(params.matrix_at(w), place.dtype),
            add: (into == Into::Add).then_some(out),
            out,
            out_type: place.dtype,
        },
    );
}

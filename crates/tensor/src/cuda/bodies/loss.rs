//! Linear layer with cross-entropy or token log-probabilities on a card. Logits are f32 and exist for one chunk of rows at
//! a time; their gradient, in the type of activations, stands beside them.

use super::linear::{columns, rows, run};
use super::{Place, at, int, size, uploaded};
use crate::cuda::api::driver::DevicePtr;
use crate::cuda::card::{Arg, Grid};
use crate::cuda::products::Product;
use crate::cuda::{Block, DType};
use crate::{ParamId, Params, Tensor};

/// Logits that exist at once: 512 MB. A card is only busy with large products.
const CHUNK_VALUES: usize = 128 << 20;

/// What a loss writes besides its value: the gradient of `x [n, d]`, overwritten, and where to add that of `w`.
pub struct Gradients<'a> {
    pub dx: &'a mut Tensor,
    pub dw: DevicePtr,
}

/// What the rows weigh.
enum Weights {
    /// `dz = a (softmax - onehot)`, loss `-a log p`.
    Loss(Block),
    /// The gradients of the log-probabilities: `dz = dy (onehot - softmax)`.
    LogProbs(DevicePtr),
    None,
}

struct Call<'a> {
    params: &'a Params,
    w: ParamId,
    x: &'a Tensor,
    targets: Block,
    weights: Weights,
}

/// Runs over chunks of rows; `values` receives a number a row: its weighted loss, or its log-probability.
fn chunks(call: &Call, values: DevicePtr, mut gradients: Option<Gradients>) {
    let (x, place) = (call.x, Place::of(call.x));
    let (n, d, dtype) = (x.rows(), x.row_len(), place.dtype);
    let vocabulary = call.params.shape(call.w)[0];
    let w = call.params.matrix_at(call.w);
    let most = (CHUNK_VALUES / vocabulary.max(1)).max(128);
    let chunk = n.div_ceil(n.div_ceil(most).max(1)).max(1);
    let logits = place.card.block(4 * chunk.min(n) * vocabulary);
    let dz = gradients.as_ref().map(|_| place.card.block(dtype.size() * chunk.min(n) * vocabulary));
    for start in (0..n).step_by(chunk) {
        let count = chunk.min(n - start);
        let width = dtype.size() as u64;
        let from = |at: DevicePtr, bytes: u64| Arg::Word(at + start as u64 * bytes);
        let rows_at = |at: DevicePtr| at + (start * d) as u64 * width;
        let sizes = (count, vocabulary, d);
        let (a, b) = (rows(rows_at(x.at()), dtype), columns(w, dtype));
        run(place, Product { sizes, a, b, add: None, out: logits.at(), out_type: DType::F32 });
        let none = Arg::Word(0);
        let (weights, logprob, loss, flip) = match &call.weights {
            Weights::Loss(weights) => (from(weights.at(), 4), none, from(values, 4), 1.0),
            Weights::LogProbs(dy) => (from(*dy, 4), from(values, 4), none, -1.0),
            Weights::None => (none, from(values, 4), none, 1.0),
        };
        let args = [
            at(&logits),
            from(call.targets.at(), 4),
            weights,
            dz.as_ref().map_or(none, at),
            logprob,
            loss,
            int(vocabulary),
            Arg::Float(flip),
        ];
        place.card.launch(dtype, c"loss_gradient", Grid::rows(count), &args);
        if let (Some(Gradients { dx, dw }), Some(dz)) = (&mut gradients, &dz) {
            let sizes = (count, d, vocabulary);
            let (a, b) = (rows(dz.at(), dtype), rows(w, dtype));
            run(place, Product { sizes, a, b, add: None, out: rows_at(dx.at_mut()), out_type: dtype });
            let sizes = (vocabulary, d, count);
            let (a, b) = (columns(dz.at(), dtype), rows(rows_at(x.at()), dtype));
            run(place, Product { sizes, a, b, add: Some(*dw), out: *dw, out_type: DType::F32 });
        }
    }
}

/// `sum_i weights[i] -log softmax(x w^T)[i, targets[i]]`, one f32 on the card.
pub fn cross_entropy(
    params: &Params,
    x: &Tensor,
    w: ParamId,
    targets: &[u32],
    weights: &[f32],
    gradients: Option<Gradients>,
) -> Block {
    let (place, n) = (Place::of(x), x.rows());
    let card = place.card;
    let losses = card.block(4 * n);
    let weights = Weights::Loss(uploaded(card, weights));
    let call = Call { params, w, x, targets: uploaded(card, targets), weights };
    chunks(&call, losses.at(), gradients);
    let loss = card.block(4);
    card.launch(place.dtype, c"sum", Grid::rows(1), &[at(&losses), at(&loss), size(n)]);
    loss
}

/// `log softmax(x w^T)[i, targets[i]]`, f32 `[n]`.
pub fn logprobs(params: &Params, x: &Tensor, w: ParamId, targets: &[u32]) -> Tensor {
    let card = Place::of(x).card;
    let mut out = Tensor::stale_on(card, DType::F32, &[x.rows()]);
    let call = Call { params, w, x, targets: uploaded(card, targets), weights: Weights::None };
    let to = out.at_mut();
    chunks(&call, to, None);
    out
}

/// Their gradients, given those of the values, f32 `[n]`.
pub fn logprobs_backward(
    params: &Params,
    x: &Tensor,
    w: ParamId,
    targets: &[u32],
    dy: &Tensor,
    gradients: Gradients,
) {
    let card = Place::of(x).card;
    let again = card.block(4 * x.rows());
    let weights = Weights::LogProbs(dy.at());
    let call = Call { params, w, x, targets: uploaded(card, targets), weights };
    chunks(&call, again.at(), Some(gradients));
}

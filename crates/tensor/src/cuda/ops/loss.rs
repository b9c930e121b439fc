//! `ops/cross_entropy.rs` and `ops/logprobs.rs` on a card: the logits of a chunk of rows at a time, in f32.

use super::embedding::{gather, scatter_add};
use super::linear::mat;
use super::{each, int};
use crate::cuda::{Arg, Card, CardBuffer, CardParams, DType, Mat, Product, expect};
use crate::ops::counted_rows;
use crate::tape::{Backward, Saved, Slot};
use crate::walk::{Flow, Walk};
use crate::{Grads, ParamId, Tape, Tensor, Var, profile};

/// Logits that exist at once: 256 MB. Fewer would read the weights too often for the products they are made with.
const CHUNK_VALUES: usize = 64 << 20;

/// One loss over the vocabulary: the matrix on top, and whose rows it is for.
struct Loss<'a> {
    card: &'a Card,
    activations: DType,
    /// Address of `w [vocabulary, d]`, in the type of activations.
    w: u64,
    vocabulary: usize,
    /// `[n, d]`
    x: &'a Tensor,
    /// u32 `[n]`
    targets: CardBuffer,
}

/// Where gradients go: `dx [n, d]` is overwritten, `dw` (an address, f32) added to.
type Gradients<'a> = Option<(&'a Tensor, u64)>;

impl Loss<'_> {
    /// `nll[i] = -weights[i] log softmax(x_i w^T)[targets[i]]`, with the gradients of their sum.
    fn run(&self, weights: &CardBuffer, nll: &CardBuffer, gradients: Gradients<'_>) {
        let (n, d, vocabulary) = (self.x.rows(), self.x.row_len(), self.vocabulary);
        let chunk = (CHUNK_VALUES / vocabulary.max(1)).clamp(1, n.max(1));
        let logits = Tensor::stale_on(self.card, DType::F32, &[chunk, vocabulary]);
        // In f32 the gradient takes the place of the logits.
        let dz = match self.activations {
            DType::F32 => logits.clone(),
            other => Tensor::stale_on(self.card, other, &[chunk, vocabulary]),
        };
        let w = Mat::rows(self.w, self.activations, d);
        let act = self.activations.size();
        for start in (0..n).step_by(chunk) {
            let count = chunk.min(n - start);
            let at = |address: u64, size: usize| address + (start * size) as u64;
            let x = Mat { address: at(mat(self.x).address, d * act), ..mat(self.x) };
            let sizes = (count, vocabulary, d);
            expect(self.card.product(&Product {
                sizes,
                a: x,
                b: w.t(),
                out: mat(&logits),
                add: None,
                scales: None,
            }));
            let [targets, weights, nll] =
                [&self.targets, weights, nll].map(|b| Arg::from(at(b.address(), 4)));
            let arguments = [logits.arg(), targets, weights, dz.arg(), nll, int(vocabulary)];
            expect(self.card.launch(self.activations, "loss_gradient", (count, 1), &arguments));
            if let Some((dx, dw)) = gradients {
                let out = Mat { address: at(mat(dx).address, d * act), ..mat(dx) };
                let sizes = (count, d, vocabulary);
                expect(self.card.product(&Product {
                    sizes,
                    a: mat(&dz),
                    b: w,
                    out,
                    add: None,
                    scales: None,
                }));
                let (sizes, out) = ((vocabulary, d, count), Mat::rows(dw, DType::F32, d));
                expect(self.card.product(&Product {
                    sizes,
                    a: mat(&dz).t(),
                    b: x,
                    out,
                    add: Some(dw),
                    scales: None,
                }));
            }
        }
    }
}

/// The rows that count, on the card.
struct Counted {
    rows: Vec<u32>,
    x: Tensor,
    targets: CardBuffer,
    weights: CardBuffer,
}

fn counted(
    on: &CardParams,
    operator: &str,
    x: &Tensor,
    vocabulary: usize,
    targets: &[u32],
    weights: &[f32],
) -> Counted {
    let rows = counted_rows(operator, x.rows(), vocabulary, targets, weights);
    let targets: Vec<u32> = rows.iter().map(|row| targets[*row]).collect();
    let weights: Vec<f32> = rows.iter().map(|row| weights[*row]).collect();
    let rows: Vec<u32> = rows.into_iter().map(|row| row as u32).collect();
    let all = rows.len() == x.rows();
    let from = x.place().0.address();
    Counted {
        x: if all { x.clone() } else { gather(on.card(), on.activations(), from, x.row_len(), &rows) },
        targets: expect(CardBuffer::input(on.card(), &targets, targets.len())),
        weights: expect(CardBuffer::input(on.card(), &weights, weights.len())),
        rows,
    }
}

/// The loss as a scalar, and its gradients.
fn cross_entropy(
    on: &CardParams,
    counted: Counted,
    w: u64,
    vocabulary: usize,
    into: Gradients<'_>,
) -> Tensor {
    let _span = profile::span("cross_entropy");
    let (card, activations, n) = (on.card(), on.activations(), counted.rows.len());
    let nll = expect(CardBuffer::stale(card, n * size_of::<f32>()));
    let Counted { x, targets, weights, .. } = counted;
    Loss { card, activations, w, vocabulary, x: &x, targets }.run(&weights, &nll, into);
    let loss = Tensor::stale_on(card, DType::F32, &[]);
    expect(card.launch(activations, "sum_values", (1, 1), &[(&nll).into(), loss.arg(), int(n)]));
    loss
}

/// The gradient of all `n` rows from that of the counted ones.
fn of_all(dx: Tensor, n: usize, rows: &[u32]) -> Tensor {
    if rows.len() == n {
        return dx;
    }
    let (buffer, dtype) = dx.place();
    let all = Tensor::zeros_on(buffer.card(), dtype, &[n, dx.row_len()]);
    scatter_add(&dx, rows, &all);
    all
}

struct CrossEntropy {
    x: Slot,
    w: ParamId,
    dx: Tensor,
    dw: CardBuffer,
}

struct LogProbs {
    x: Slot,
    saved: Saved,
    w: ParamId,
    targets: Vec<u32>,
}

impl Tape<'_> {
    pub(crate) fn cross_entropy_on_card(
        &mut self,
        on: &CardParams,
        x: &Var,
        w: ParamId,
        targets: &[u32],
        weights: &[f32],
    ) -> Var {
        let vocabulary = self.params().shape(w)[0];
        let counted = counted(on, "linear_cross_entropy", x.value(), vocabulary, targets, weights);
        let address = self.params().act_address(w);
        if !self.is_recording() {
            return self.constant(cross_entropy(on, counted, address, vocabulary, None));
        }
        let rows = counted.rows.clone();
        let dx = Tensor::stale_on(on.card(), on.activations(), &[rows.len(), x.width()]);
        let bytes = self.params().spec(w).count() * size_of::<f32>();
        let dw = expect(CardBuffer::zeroed(on.card(), bytes));
        let loss = cross_entropy(on, counted, address, vocabulary, Some((&dx, dw.address())));
        let (slot, dx) = (self.slot(x), of_all(dx, x.rows(), &rows));
        self.push(loss, || CrossEntropy { x: slot, w, dx, dw })
    }

    pub(crate) fn cross_entropy_walk_on_card(
        self,
        on: &CardParams,
        x: Var,
        w: ParamId,
        targets: &[u32],
        weights: &[f32],
        grads: &mut Grads,
    ) -> (Tensor, Walk) {
        let vocabulary = self.params().shape(w)[0];
        let counted = counted(on, "cross_entropy_backward", x.value(), vocabulary, targets, weights);
        let rows = counted.rows.clone();
        let dx = Tensor::stale_on(on.card(), on.activations(), &[rows.len(), x.width()]);
        let into = Some((&dx, grads.address_mut(w)));
        let loss = cross_entropy(on, counted, self.params().act_address(w), vocabulary, into);
        let dx = of_all(dx, x.rows(), &rows);
        (loss, self.walk_from([(x, dx)]))
    }

    pub(crate) fn token_logprobs_on_card(
        &mut self,
        on: &CardParams,
        x: &Var,
        w: ParamId,
        targets: &[u32],
    ) -> Var {
        let n = x.rows();
        let out = Tensor::stale_on(on.card(), DType::F32, &[n]);
        let minus = expect(CardBuffer::input(on.card(), &vec![-1.0f32; n], n));
        loss(on, x.value(), self.params(), w, targets).run(&minus, out.place().0, None);
        let slot = self.slot(x);
        self.push(out, || LogProbs { x: slot, saved: Saved::new(x), w, targets: targets.to_vec() })
    }
}

fn loss<'a>(
    on: &'a CardParams,
    x: &'a Tensor,
    params: &crate::Params,
    w: ParamId,
    targets: &[u32],
) -> Loss<'a> {
    Loss {
        card: on.card(),
        activations: on.activations(),
        w: params.act_address(w),
        vocabulary: params.shape(w)[0],
        x,
        targets: expect(CardBuffer::input(on.card(), targets, targets.len())),
    }
}

impl Backward for CrossEntropy {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let ((dx, dtype), count) = (self.dx.place(), self.dx.len());
        let card = dx.card();
        each(card, dtype, "scale", count, &[dx.into(), grad.arg(), dx.into(), count.into()]);
        let (count, dw) = (self.dw.bytes() / size_of::<f32>(), flow.grads.address_mut(self.w));
        let arguments = [(&self.dw).into(), grad.arg(), dw.into(), count.into()];
        each(card, dtype, "add_scaled", count, &arguments);
        flow.give(self.x, self.dx);
    }
}

impl Backward for LogProbs {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let params = flow.params;
        let on = params.on_card().expect("the parameters are on a card");
        let x = self.saved.tensor(params);
        let n = x.rows();
        let scratch = || expect(CardBuffer::stale(on.card(), n * size_of::<f32>()));
        let (minus, nll) = (scratch(), scratch());
        each(on.card(), on.activations(), "negate", n, &[grad.arg(), (&minus).into(), n.into()]);
        let dx = Tensor::stale_on(on.card(), on.activations(), x.shape());
        let into = Some((&dx, flow.grads.address_mut(self.w)));
        loss(on, &x, params, self.w, &self.targets).run(&minus, &nll, into);
        flow.give(self.x, dx);
    }
}

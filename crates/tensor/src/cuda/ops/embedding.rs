//! `ops/embedding.rs` and `ops/select_rows.rs` on a card.

use super::{each, int};
use crate::cuda::{Card, CardBuffer, CardParams, DType, expect};
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{ParamId, Tape, Tensor, Var};

/// Rows grouped by where they came from, so that one thread adds up what goes to one place, in order. There are as many groups
/// as rows, so that it does not depend on the rows how many blocks are launched; those that are too many are empty.
struct Groups {
    distinct: CardBuffer,
    starts: CardBuffer,
    rows: CardBuffer,
}

impl Groups {
    fn new(card: &Card, from: &[u32]) -> Self {
        let mut rows: Vec<u32> = (0..from.len() as u32).collect();
        rows.sort_by_key(|row| from[*row as usize]);
        let n = rows.len();
        let (mut distinct, mut starts) = (Vec::with_capacity(n), Vec::with_capacity(n + 1));
        for (at, row) in rows.iter().enumerate() {
            let place = from[*row as usize];
            if distinct.last() != Some(&place) {
                distinct.push(place);
                starts.push(at as u32);
            }
        }
        distinct.resize(n, 0);
        starts.resize(n + 1, n as u32);
        let upload = |values: &[u32]| expect(CardBuffer::input(card, values, values.len()));
        Self { distinct: upload(&distinct), starts: upload(&starts), rows: upload(&rows) }
    }
}

/// Rows `ids` of the table at `address`, whose rows are `d` wide: `[ids.len(), d]`.
pub(super) fn gather(card: &Card, activations: DType, address: u64, d: usize, ids: &[u32]) -> Tensor {
    let out = Tensor::stale_on(card, activations, &[ids.len(), d]);
    let ids = expect(CardBuffer::input(card, ids, ids.len()));
    let count = out.len();
    each(
        card,
        activations,
        "embedding",
        count,
        &[address.into(), (&ids).into(), out.arg(), count.into(), int(d)],
    );
    out
}

/// `to[rows[i]] += grad[i]`.
pub(super) fn scatter_add(grad: &Tensor, rows: &[u32], to: &Tensor) {
    let ((buffer, dtype), d) = (grad.place(), grad.row_len());
    let count = rows.len() * d;
    let Groups { distinct, starts, rows } = &Groups::new(buffer.card(), rows);
    let arguments =
        [buffer.into(), distinct.into(), starts.into(), rows.into(), to.arg(), count.into(), int(d)];
    each(buffer.card(), dtype, "select_backward", count, &arguments);
}

struct Embedding {
    w: ParamId,
    ids: Vec<u32>,
}

struct SelectRows {
    x: Slot,
    shape: [usize; 2],
    rows: Vec<u32>,
}

impl Tape<'_> {
    pub(crate) fn embedding_on_card(&mut self, on: &CardParams, w: ParamId, ids: &[u32]) -> Var {
        let [vocabulary, d] = *self.params().shape(w) else { unreachable!("checked by the caller") };
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            panic!("embedding: id {id} is outside the vocabulary of {vocabulary}");
        }
        let out = gather(on.card(), on.activations(), self.params().act_address(w), d, ids);
        self.push(out, || Embedding { w, ids: ids.to_vec() })
    }

    pub(crate) fn select_rows_on_card(&mut self, on: &CardParams, x: &Var, rows: &[usize]) -> Var {
        let (n, d) = (x.rows(), x.width());
        if let Some(row) = rows.iter().find(|row| **row >= n) {
            panic!("select_rows: row {row} of {n}");
        }
        let rows: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let out = gather(on.card(), on.activations(), x.value().place().0.address(), d, &rows);
        let slot = self.slot(x);
        self.push(out, || SelectRows { x: slot, shape: [n, d], rows })
    }
}

impl Backward for Embedding {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let ((buffer, dtype), d) = (grad.place(), grad.row_len());
        let count = self.ids.len() * d;
        let Groups { distinct, starts, rows } = &Groups::new(buffer.card(), &self.ids);
        let to = flow.grads.address_mut(self.w);
        let arguments =
            [buffer.into(), distinct.into(), starts.into(), rows.into(), to.into(), count.into(), int(d)];
        each(buffer.card(), dtype, "embedding_backward", count, &arguments);
    }
}

impl Backward for SelectRows {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let dtype = grad.place().1;
        flow.accumulate_on_card(self.x, dtype, &self.shape, |dx, add| {
            if !add {
                expect(dx.place().0.clear());
            }
            scatter_add(&grad, &self.rows, dx);
        });
    }
}

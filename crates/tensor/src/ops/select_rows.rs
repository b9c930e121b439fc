//! Row selection: `y[i] = x[rows[i]]` with `x [n, d]`, `y [rows.len(), d]`; `dx[rows[i]] += dy[i]`.

use crate::kernels::matmul::Into;
use crate::tape::{Backward, Slot};
use crate::walk::Flow;
use crate::{Tape, Tensor, Var};

struct SelectRows {
    x: Slot,
    n: usize,
    rows: Vec<usize>,
}

impl Tape<'_> {
    /// The given rows of `x`, in the given order; a row may occur several times. Panics if one is beyond the end.
    pub fn select_rows(&mut self, x: &Var, rows: &[usize]) -> Var {
        if let Some(on) = self.params().on_card() {
            return self.select_rows_on_card(on, x, rows);
        }
        let out = gather(x.value(), rows);
        let (slot, n) = (self.slot(x), x.rows());
        self.push(out, || SelectRows { x: slot, n, rows: rows.to_vec() })
    }
}

/// Copies rows of `x` into a new tensor.
pub(super) fn gather(x: &Tensor, rows: &[usize]) -> Tensor {
    let (n, d) = (x.rows(), x.row_len());
    let mut out = Tensor::stale(&[rows.len(), d]);
    for (out, &row) in out.make_mut().chunks_exact_mut(d).zip(rows) {
        assert!(row < n, "select_rows: row {row} of {n}");
        out.copy_from_slice(x.row(row));
    }
    out
}

/// Adds rows of `grad` to the rows of a gradient of `n` rows they were gathered from.
pub(super) fn scatter(flow: &mut Flow<'_>, slot: Slot, n: usize, rows: &[usize], grad: &Tensor) {
    let d = grad.row_len();
    flow.accumulate(slot, &[n, d], |dx, into| {
        if into == Into::Overwrite {
            dx.fill(0.0);
        }
        for (grad, &row) in grad.as_slice().chunks_exact(d).zip(rows) {
            for (dx, g) in dx[row * d..(row + 1) * d].iter_mut().zip(grad) {
                *dx += g;
            }
        }
    });
}

impl Backward for SelectRows {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        scatter(flow, self.x, self.n, &self.rows, &grad);
    }
}

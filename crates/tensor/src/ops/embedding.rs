//! Embedding: `y[i] = w[ids[i]]` with `w [vocabulary, d]`, `y [n, d]`; `dw[ids[i]] += dy[i]`.

use crate::kernels::matmul::SharedMut;
use crate::tape::Backward;
use crate::walk::Flow;
use crate::{ParamId, Tape, Tensor, Var, profile};
use rayon::prelude::*;

struct Embedding {
    w: ParamId,
    ids: Vec<u32>,
}

impl Tape<'_> {
    /// Rows of `w` (`[vocabulary, d]`) for the given ids: `[n, d]`. Panics if an id is outside the vocabulary.
    pub fn embedding(&mut self, w: ParamId, ids: &[u32]) -> Var {
        let _span = profile::span("embedding");
        let shape = self.params().shape(w);
        assert_eq!(shape.len(), 2, "embedding: the table has shape {shape:?}, not [vocabulary, d]");
        let (vocabulary, d) = (shape[0], shape[1]);
        if let Some(on) = self.params().on_card() {
            return self.embedding_on_card(on, w, ids);
        }
        let table = self.weight(w);
        let mut out = Tensor::stale(&[ids.len(), d]);
        for (row, &id) in out.make_mut().chunks_exact_mut(d).zip(ids) {
            let id = id as usize;
            assert!(id < vocabulary, "embedding: id {id} is outside the vocabulary of {vocabulary}");
            row.copy_from_slice(&table[id * d..(id + 1) * d]);
        }
        self.push(out, || Embedding { w, ids: ids.to_vec() })
    }
}

/// Columns that one task of the backward pass adds up, over all rows.
const TASK_COLUMNS: usize = 64;

impl Backward for Embedding {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let d = grad.row_len();
        let rows = self.ids.iter().map(|id| *id as usize);
        let target = SharedMut::new(flow.grads.rows_mut(self.w, rows));
        (0..d.div_ceil(TASK_COLUMNS)).into_par_iter().for_each(|task| {
            let columns = task * TASK_COLUMNS..((task + 1) * TASK_COLUMNS).min(d);
            for (row, &id) in grad.as_slice().chunks_exact(d).zip(&self.ids) {
                // SAFETY: ids were checked in the forward pass, and each task has its own columns.
                let out = unsafe {
                    std::slice::from_raw_parts_mut(target.at(id as usize * d + columns.start), columns.len())
                };
                for (o, g) in out.iter_mut().zip(&row[columns.clone()]) {
                    *o += g;
                }
            }
        });
    }
}

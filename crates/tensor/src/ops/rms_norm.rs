//! RMSNorm (arXiv 1910.07467): `r_i = 1 / sqrt(mean_j(x_ij^2) + eps)`, `y_ij = x_ij r_i w_j` with `x, y [n, d]`, `w [d]`.
//! `dx_i = r_i (w dy_i - h_i mean_j(w_j dy_ij h_ij))` with `h_i = x_i r_i`; `dw = sum_i dy_i h_i`.
//!
//! The output is not kept: consumers compute it again from `x` and `r`.

use crate::isa::by_isa;
use crate::kernels::elementary::sum;
use crate::kernels::matmul::{Into, SharedMut};
use crate::kernels::rows::{rms_norm_again, rms_norm_rows, task_rows};
use crate::pool::Buffer;
use crate::tape::{Again, Backward, Slot};
use crate::walk::Flow;
use crate::{ParamId, Params, Tape, Tensor, Var, profile};
use rayon::prelude::*;
use std::sync::Arc;

struct Normed {
    x: Tensor,
    /// `[n]`
    rstd: Buffer,
    w: ParamId,
}

struct RmsNorm {
    x: Slot,
    state: Arc<Normed>,
}

impl Tape<'_> {
    /// Root-mean-square normalisation of the rows of `x [n, d]`, times `w [d]`.
    pub fn rms_norm(&mut self, x: &Var, w: ParamId, eps: f32) -> Var {
        let _span = profile::span("rms_norm");
        let d = x.width();
        let spec = self.params().spec(w);
        assert_eq!(spec.count(), d, "rms_norm: {} has another width than x", spec.name);
        if let Some(on) = self.params().on_card() {
            return self.rms_norm_on_card(on, x, w, eps);
        }
        let weight = self.weight(w);
        let mut out = Tensor::stale(x.shape());
        let mut rstd = Buffer::stale(x.rows());
        let rows = task_rows(d);
        x.value()
            .as_slice()
            .par_chunks(rows * d)
            .zip(out.make_mut().par_chunks_mut(rows * d))
            .zip(rstd.par_chunks_mut(rows))
            .for_each(|((x, out), rstd)| rms_norm_rows(x, weight, eps, out, rstd));
        let slot = self.slot(x);
        let state = Arc::new(Normed { x: x.value().clone(), rstd, w });
        self.push_again(out, Arc::clone(&state) as Arc<dyn Again>, || RmsNorm { x: slot, state })
    }
}

impl Again for Normed {
    fn compute(&self, params: &Params) -> Tensor {
        let _span = profile::span("rms_norm again");
        let weight = params.value(self.w);
        let d = weight.len();
        let mut out = Tensor::stale(self.x.shape());
        let rows = task_rows(d);
        self.x
            .as_slice()
            .par_chunks(rows * d)
            .zip(out.make_mut().par_chunks_mut(rows * d))
            .zip(self.rstd.par_chunks(rows))
            .for_each(|((x, out), rstd)| rms_norm_again(x, weight, rstd, out));
        out
    }
}

impl Backward for RmsNorm {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let state = &self.state;
        let params = flow.params;
        let weight = params.value(state.w);
        let (n, d) = (grad.rows(), weight.len());
        let rows = task_rows(d);
        let tasks = n.div_ceil(rows);
        // Each task sums its rows' share of dw; the shares are added in order afterwards. [tasks, d]
        let mut shares = Buffer::zeroed(tasks * d);
        let run = |dx: Option<&mut [f32]>, into: Into, shares: &mut [f32]| {
            let dx = dx.map(SharedMut::new);
            shares.par_chunks_mut(d).enumerate().for_each(|(task, share)| {
                let range = task * rows..((task + 1) * rows).min(n);
                let values = range.start * d..range.end * d;
                // SAFETY: each task has its own rows.
                let dx =
                    dx.map(|p| unsafe { std::slice::from_raw_parts_mut(p.at(values.start), values.len()) });
                rms_norm_backward(
                    &state.x.as_slice()[values.clone()],
                    weight,
                    &state.rstd[range],
                    &grad.as_slice()[values],
                    dx.unwrap_or_default(),
                    into == Into::Add,
                    share,
                );
            });
        };
        if flow.wants(self.x) {
            flow.accumulate(self.x, grad.shape(), |dx, into| run(Some(dx), into, &mut shares));
        } else {
            run(None, Into::Overwrite, &mut shares);
        }
        let dw = flow.grads.of_mut(state.w);
        for share in shares.chunks_exact(d) {
            for (dw, share) in dw.iter_mut().zip(share) {
                *dw += share;
            }
        }
    }
}

#[inline(always)]
fn backward_body<const FMA: bool>(
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
    dw: &mut [f32],
) {
    let d = w.len();
    for (i, &r) in rstd.iter().enumerate() {
        let (x, dy) = (&x[i * d..(i + 1) * d], &dy[i * d..(i + 1) * d]);
        for j in 0..d {
            dw[j] += dy[j] * x[j] * r;
        }
        if dx.is_empty() {
            continue;
        }
        let mean = sum(d, |j| w[j] * dy[j] * x[j]) * r / d as f32;
        let dx = &mut dx[i * d..(i + 1) * d];
        if add {
            for j in 0..d {
                dx[j] += r * (w[j] * dy[j] - x[j] * r * mean);
            }
        } else {
            for j in 0..d {
                dx[j] = r * (w[j] * dy[j] - x[j] * r * mean);
            }
        }
    }
}
by_isa! {
    fn rms_norm_backward => backward_body(
        x: &[f32], w: &[f32], rstd: &[f32], dy: &[f32], dx: &mut [f32], add: bool, dw: &mut [f32]
    )
}

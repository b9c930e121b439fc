//! Keys and values packed for the micro-kernels, once per call, on a grid of `width` rows that all segments share.

use super::{Attention, gather_head};
use crate::kernels::matmul::{SharedMut, Strided};
use crate::kernels::micro::Kernels;
use crate::kernels::pack::pack;
use crate::pool::{Buffer, prepare};
use rayon::prelude::*;
use std::ops::Range;

/// Which part of a packed row, and whether it is rotated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Values,
}

/// All rows of a key or value part, ready to be the right-hand side of a product with the rows as columns
/// (`[kv][n / width][hd][width]`), or as inner dimension (`[kv][hd / width][n][width]`).
pub(super) struct Panels {
    buffer: Buffer,
    /// Rows, padded to a multiple of `width`.
    rows: usize,
    width: usize,
    /// `hd` where rows are columns; `hd` padded to a multiple of `width` where they are the inner dimension.
    depth: usize,
}

/// `size` rounded up to whole panels.
pub(super) fn padded(size: usize, width: usize) -> usize {
    size.next_multiple_of(width)
}

/// Fills `target` (`width` rows of `hd`) from packed rows; rows beyond `n` are zero.
fn gather(call: &Attention, qkv: &[f32], part: Part, kv: usize, rows: Range<usize>, target: &mut [f32]) {
    let (shape, hd) = (&call.shape, call.shape.head_dim);
    target[rows.len() * hd..].fill(0.0);
    match part {
        Part::Keys => gather_head(call, qkv, shape.k_column(kv), rows, 1.0, target),
        Part::Values => {
            let from = Strided::rows(qkv, shape.packed_width());
            for (row, target) in rows.zip(target.chunks_exact_mut(hd)) {
                target.copy_from_slice(&from.data[row * from.row_stride + shape.v_column(kv)..][..hd]);
            }
        }
    }
}

impl Panels {
    /// Rows as columns.
    pub fn columns(kernels: &Kernels, call: &Attention, qkv: &[f32], n: usize, part: Part) -> Self {
        let (hd, width) = (call.shape.head_dim, kernels.width);
        let rows = padded(n, width);
        let mut buffer = Buffer::stale(call.shape.kv_heads * rows * hd);
        prepare(&[width * hd]);
        buffer.par_chunks_mut(width * hd).with_min_len(8).enumerate().for_each(|(index, panel)| {
            let (kv, first) = (index / (rows / width), index % (rows / width) * width);
            let mut gathered = Buffer::stale(width * hd);
            gather(call, qkv, part, kv, first..(first + width).min(n), &mut gathered);
            pack(kernels.isa, Strided::rows(&gathered, hd), width, 0, 0, width, panel);
        });
        Self { buffer, rows, width, depth: hd }
    }

    /// Rows as inner dimension.
    pub fn inner(kernels: &Kernels, call: &Attention, qkv: &[f32], n: usize, part: Part) -> Self {
        let (hd, width) = (call.shape.head_dim, kernels.width);
        let (rows, depth) = (padded(n, width), padded(hd, width));
        let mut buffer = Buffer::stale(call.shape.kv_heads * rows * depth);
        let target = SharedMut::new(&mut buffer);
        prepare(&[width * hd]);
        (0..call.shape.kv_heads * rows / width).into_par_iter().with_min_len(8).for_each(|index| {
            let (kv, first) = (index / (rows / width), index % (rows / width) * width);
            let mut gathered = Buffer::stale(width * hd);
            gather(call, qkv, part, kv, first..(first + width).min(n), &mut gathered);
            for column in (0..depth).step_by(width) {
                let at = (kv * depth + column) * rows + first * width;
                // SAFETY: each task has its own rows of every panel.
                let out = unsafe { std::slice::from_raw_parts_mut(target.at(at), width * width) };
                inner_panel(&gathered, hd, column, width, out);
            }
        });
        Self { buffer, rows, width, depth }
    }

    /// Where rows are columns: the panel whose first column is row `row` (a multiple of `width`).
    pub fn panel(&self, kv: usize, row: usize) -> &[f32] {
        &self.buffer[(kv * self.rows + row) * self.depth..][..self.width * self.depth]
    }

    /// Where rows are the inner dimension: the panel of head columns from `column`, beginning at row `row`.
    pub fn rows_from(&self, kv: usize, column: usize, row: usize) -> &[f32] {
        let base = (kv * self.depth + column) * self.rows;
        &self.buffer[base + row * self.width..base + self.rows * self.width]
    }
}

/// Columns `column..column + width` of rows of `hd`, zero beyond `hd`, as a panel `[row][width]`.
fn inner_panel(rows: &[f32], hd: usize, column: usize, width: usize, out: &mut [f32]) {
    let count = width.min(hd - column);
    for (out, row) in out.chunks_exact_mut(width).zip(rows.chunks_exact(hd)) {
        out[..count].copy_from_slice(&row[column..column + count]);
        out[count..].fill(0.0);
    }
}

/// Local rows of `hd` as panels of the inner dimension, `[hd / width][rows][width]`.
pub(super) fn local(rows: &[f32], hd: usize, width: usize, out: &mut [f32]) {
    let count = rows.len() / hd;
    for (index, out) in out.chunks_exact_mut(count * width).enumerate() {
        inner_panel(rows, hd, index * width, width, out);
    }
}

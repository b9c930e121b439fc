//! Matrix products, after Goto and van de Geijn (doi 10.1145/1356052.1356053): both sides are packed into panels, blocks
//! that fit the caches are multiplied by the micro-kernels, and tiles of the output run on all threads.
//!
//! Every output element is summed in the same order whatever the number of threads, of rows or of columns: runs of
//! [`K_BLOCK`] terms, each one chain of multiply-adds, added up in turn. So the bits of a row do not depend on the other
//! rows of its batch either.

use super::micro::{Kernels, MAX_ROWS, MAX_WIDTH, product_kernels};
use super::pack::{fetch, pack, pack_across};
use crate::pool::{Buffer, prepare};
use crate::profile;
use rayon::prelude::*;
use std::ops::Range;

/// Terms summed in registers before they are added to the output.
const K_BLOCK: usize = 512;
/// Values of the packed right-hand side that exist at once (8 MB).
const PACKED_VALUES: usize = 2 << 20;
/// Terms of the inner dimension that are packed at once.
const K_STRIP: usize = 8 * K_BLOCK;
/// About this many rows and columns make one task: its left-hand block fits the second-level cache.
const TASK_ROWS: usize = 252;
const TASK_COLUMNS: usize = 512;
const LEAST_ROWS: usize = 84;
const LEAST_COLUMNS: usize = 128;
/// Panels packed by one task.
const PACK_PANELS: usize = 16;
/// Rows this many values apart (or a multiple) share so few sets of the first-level cache that they drive each other out.
const CONFLICT: usize = 1024;
/// Values between copied rows, so that they do not.
const ROW_GAP: usize = 16;
/// Up to this many rows, packing the whole right-hand side would cost more than it saves.
const THIN_ROWS: usize = 4 * MAX_ROWS;
/// Up to this many rows a run of the left-hand side stays in the second-level cache: if there are columns enough for all
/// threads, each packs the panels of its own and uses them while they are near.
const MIDDLE_ROWS: usize = 288;
/// Values that stay in the second-level cache beside a panel.
const NEAR_VALUES: usize = 1 << 18;
/// Panels of a thread at least, for that.
const MIDDLE_PANELS: usize = 4;

/// Rows and columns of the output, terms of its sums.
type Sizes = (usize, usize, usize);

/// A matrix read through strides: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a> {
    pub data: &'a [f32],
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Strided<'a> {
    /// Rows of `width` values, one after the other.
    pub fn rows(data: &'a [f32], width: usize) -> Self {
        Self { data, row_stride: width, col_stride: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { data: self.data, row_stride: self.col_stride, col_stride: self.row_stride }
    }
}

/// A raw pointer that tasks with disjoint targets share.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(*mut f32);
// SAFETY: users write to disjoint elements only; each use says why they are.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    pub fn new(data: &mut [f32]) -> Self {
        Self(data.as_mut_ptr())
    }
    /// Pointer to element `index`. The caller keeps within the slice it was made from.
    pub fn at(&self, index: usize) -> *mut f32 {
        self.0.wrapping_add(index)
    }
}

/// What happens to the values already in the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Into {
    /// They are overwritten.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// Part `index` of `count` nearly equal parts of `0..total`.
fn part(total: usize, count: usize, index: usize) -> Range<usize> {
    total * index / count..total * (index + 1) / count
}

/// The left-hand side of a block: packed panels, or rows whose values lie one after the other, read where they are.
#[derive(Clone, Copy)]
enum Left<'a> {
    /// `[panel][k][rows]`
    Panels(&'a [f32]),
    /// The first row, and the distance between rows.
    Rows(&'a [f32], usize),
}

/// One block of a product: `rows` rows of the left-hand side times one panel `[k][width]`. Before each tile `ahead` is called
/// with its number and how many there are.
///
/// # Safety
/// `out` must be valid for `rows` rows of `columns` values, `stride` apart, and not be accessed by anyone else.
#[allow(clippy::too_many_arguments)]
unsafe fn block(
    kernels: &Kernels,
    k: usize,
    left: Left,
    b: &[f32],
    rows: usize,
    columns: usize,
    out: *mut f32,
    stride: usize,
    add: bool,
    ahead: impl Fn(usize, usize),
) {
    let (table, a, a_row, a_k, a_step, needed) = match left {
        Left::Panels(a) => {
            let step = kernels.rows * k;
            (kernels.packed, a, 1, kernels.rows, step, rows.div_ceil(kernels.rows) * step)
        }
        Left::Rows(a, row) => (kernels.strided, a, row, 1, kernels.rows * row, (rows - 1) * row + k),
    };
    assert!(a.len() >= needed && b.len() >= kernels.width * k, "matmul: operand too short");
    for (index, first) in (0..rows).step_by(kernels.rows).enumerate() {
        let count = kernels.rows.min(rows - first);
        let out = out.wrapping_add(first * stride);
        let kernel = table[count - 1];
        ahead(index, rows.div_ceil(kernels.rows));
        // SAFETY: both sides hold what the kernel reads (asserted); the output is the caller's, or local at the edge.
        unsafe {
            let a = a.as_ptr().add(index * a_step);
            if columns == kernels.width {
                kernel(k, a, a_row, a_k, b.as_ptr(), out, stride, add);
            } else {
                let mut edge = [0.0f32; MAX_ROWS * MAX_WIDTH];
                kernel(k, a, a_row, a_k, b.as_ptr(), edge.as_mut_ptr(), kernels.width, false);
                for (i, edge) in edge.chunks_exact(kernels.width).take(count).enumerate() {
                    let out = std::slice::from_raw_parts_mut(out.add(i * stride), columns);
                    for (out, value) in out.iter_mut().zip(edge) {
                        *out = if add { *out + value } else { *value };
                    }
                }
            }
        }
    }
}

/// `out[m, n] (+)= a[m, k] b[k, n]` on all threads of the current pool.
pub(crate) fn product((m, n, k): Sizes, a: Strided, b: Strided, into: Into, out: &mut [f32]) {
    assert_eq!(out.len(), m * n, "matmul: output of {} values for {m} x {n}", out.len());
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if into == Into::Overwrite {
            out.fill(0.0);
        }
        return;
    }
    let transposed = |side: Strided| side.col_stride != 1;
    let _span = profile::product(
        match (transposed(a), transposed(b)) {
            (false, false) => "nn",
            (false, true) => "nt",
            (true, false) => "tn",
            (true, true) => "tt",
        },
        (m, n, k),
    );
    product_by(product_kernels(), (m, n, k), a, b, into, out);
}

/// [`product`] by kernels of one's choice: the bits are the same for all of an instruction set.
fn product_by(kernels: &Kernels, (m, n, k): Sizes, a: Strided, b: Strided, into: Into, out: &mut [f32]) {
    let enough = MIDDLE_PANELS * rayon::current_num_threads() * kernels.width;
    if m <= THIN_ROWS || m <= MIDDLE_ROWS && n >= enough {
        thin(kernels, (m, n, k), a, b, into, out);
    } else {
        thick(kernels, (m, n, k), a, b, into, out);
    }
}

/// Panels of one side for a strip of the inner dimension, laid out `[run of K_BLOCK][panel][p][i]`.
struct Packed {
    buffer: Buffer,
    width: usize,
    panels: usize,
}

impl Packed {
    /// The panels `panels` of one run.
    fn run(&self, start: usize, length: usize, panels: Range<usize>) -> &[f32] {
        let base = start * self.panels * self.width;
        &self.buffer[base + panels.start * self.width * length..base + panels.end * self.width * length]
    }
}

/// One side of a product: `rows` along the output, strided.
#[derive(Clone, Copy)]
struct Side<'a> {
    source: Strided<'a>,
    rows: usize,
}

/// Packs rows `rows` of a side for the inner range `ks`.
fn pack_side(kernels: &Kernels, side: Side, width: usize, rows: Range<usize>, ks: Range<usize>) -> Packed {
    let panels = rows.len().div_ceil(width);
    let mut buffer = Buffer::stale(panels * width * ks.len());
    let target = SharedMut::new(&mut buffer);
    let (groups, runs) = (panels.div_ceil(PACK_PANELS), ks.len().div_ceil(K_BLOCK));
    let end = side.rows.min(rows.end);
    (0..groups * runs).into_par_iter().for_each(|task| {
        let (group, run) = (task / runs * PACK_PANELS, task % runs * K_BLOCK);
        let group = group..(group + PACK_PANELS).min(panels);
        let length = K_BLOCK.min(ks.len() - run);
        let at = (run * panels + group.start * length) * width;
        // SAFETY: every run of every panel has its own part of the buffer.
        let out = unsafe { std::slice::from_raw_parts_mut(target.at(at), group.len() * width * length) };
        let first = rows.start + group.start * width;
        let last = (rows.start + group.end * width).min(end);
        pack_block(kernels, side.source, first..last, ks.start + run..ks.start + run + length, width, out);
    });
    Packed { buffer, width, panels }
}

/// Packs rows `rows` of `source` for the terms `ks` into `[panel][p][width]`.
fn pack_block(
    kernels: &Kernels,
    source: Strided,
    rows: Range<usize>,
    ks: Range<usize>,
    width: usize,
    out: &mut [f32],
) {
    if source.row_stride == 1 {
        return pack_across(source, rows, ks, width, out);
    }
    for (index, out) in out.chunks_exact_mut(width * ks.len()).enumerate() {
        pack(kernels.isa, source, rows.end, rows.start + index * width, ks.start, width, out);
    }
}

fn thick(kernels: &Kernels, (m, n, k): Sizes, a: Strided, b: Strided, into: Into, out: &mut [f32]) {
    let target = SharedMut::new(out);
    let right = Side { source: b.t(), rows: n };
    // A transposed left-hand side is copied by every task: then all columns in one strip, and in few tasks.
    let (strip, task_columns) = match a.col_stride {
        1 => (K_STRIP, TASK_COLUMNS),
        _ => (K_BLOCK * (PACKED_VALUES / n / K_BLOCK).clamp(1, K_STRIP / K_BLOCK), 4 * TASK_COLUMNS),
    };
    for k_start in (0..k).step_by(strip) {
        let ks = k_start..(k_start + strip).min(k);
        let columns = (PACKED_VALUES / ks.len() / kernels.width).max(1) * kernels.width;
        for n_start in (0..n).step_by(columns) {
            let ns = n_start..(n_start + columns).min(n);
            let packed = pack_side(kernels, right, kernels.width, ns.clone(), ks.clone());
            let panels = m.div_ceil(kernels.rows);
            let (tasks_m, tasks_n) = grid(panels * kernels.rows, packed.panels * kernels.width, task_columns);
            let staged = Stage::values(kernels, a, panels.div_ceil(tasks_m) * kernels.rows);
            prepare(&[staged]);
            (0..tasks_m * tasks_n).into_par_iter().for_each(|task| {
                let panels_m = part(panels, tasks_m, task % tasks_m);
                let panels_n = part(packed.panels, tasks_n, task / tasks_m);
                let rows = panels_m.start * kernels.rows..(panels_m.end * kernels.rows).min(m);
                let mut stage = Stage { kernels, a, rows: rows.clone(), copy: Buffer::stale(staged) };
                for run in (0..ks.len()).step_by(K_BLOCK) {
                    let length = K_BLOCK.min(ks.len() - run);
                    let left = stage.load(ks.start + run..ks.start + run + length);
                    for panel in panels_n.clone() {
                        let b = packed.run(run, length, panel..panel + 1);
                        let column = ns.start + panel * kernels.width;
                        let count = kernels.width.min(ns.end - column);
                        let add = into == Into::Add || ks.start + run > 0;
                        let out = target.at(rows.start * n + column);
                        // SAFETY: tasks write disjoint blocks of `out`.
                        unsafe { block(kernels, length, left, b, rows.len(), count, out, n, add, |_, _| ()) };
                    }
                }
            });
        }
    }
}

/// How many parts of the rows and of the columns make tasks: blocks that suit the caches, smaller where some thread
/// would have none. How the output is cut changes no bit of it.
fn grid(rows: usize, columns: usize, task_columns: usize) -> (usize, usize) {
    let wanted = 3 * rayon::current_num_threads();
    let tasks_n = (columns / task_columns).max(1);
    let tasks_m = (rows / TASK_ROWS).max(wanted.div_ceil(tasks_n)).min(rows / LEAST_ROWS).max(1);
    let tasks_n = tasks_n.max(wanted.div_ceil(tasks_m)).min(columns / LEAST_COLUMNS).max(1);
    (tasks_m, tasks_n)
}

/// The left-hand rows of one task, brought run by run to where the kernels read them fastest.
struct Stage<'a> {
    kernels: &'a Kernels,
    a: Strided<'a>,
    rows: Range<usize>,
    /// A copy that stays in the second-level cache; empty where the rows are read in place.
    copy: Buffer,
}

impl<'a> Stage<'a> {
    /// Size of the copy of at most `rows` rows; 0 where they can be read in place.
    fn values(kernels: &Kernels, a: Strided, rows: usize) -> usize {
        let in_place = a.col_stride == 1 && !a.row_stride.is_multiple_of(CONFLICT);
        if in_place { 0 } else { rows.next_multiple_of(kernels.rows) * (K_BLOCK + ROW_GAP) }
    }

    /// Terms `ks` of the rows.
    fn load(&mut self, ks: Range<usize>) -> Left<'_> {
        let (kernels, a, rows) = (self.kernels, self.a, self.rows.clone());
        if self.copy.is_empty() {
            return Left::Rows(&a.data[rows.start * a.row_stride + ks.start..], a.row_stride);
        }
        if a.col_stride == 1 {
            let stride = ks.len() + ROW_GAP;
            for (row, out) in rows.zip(self.copy.chunks_exact_mut(stride)) {
                out[..ks.len()].copy_from_slice(&a.data[row * a.row_stride + ks.start..][..ks.len()]);
            }
            return Left::Rows(&self.copy, stride);
        }
        let values = rows.len().next_multiple_of(kernels.rows) * ks.len();
        pack_block(kernels, a, rows, ks, kernels.rows, &mut self.copy[..values]);
        Left::Panels(&self.copy[..values])
    }
}

/// Few rows: each task packs one right-hand panel at a time and uses it at once, while it is in the nearest caches.
fn thin(kernels: &Kernels, (m, n, k): Sizes, a: Strided, b: Strided, into: Into, out: &mut [f32]) {
    let target = SharedMut::new(out);
    let packed_left = if a.col_stride == 1 {
        None
    } else {
        Some(pack_side(kernels, Side { source: a, rows: m }, kernels.rows, 0..m, 0..k))
    };
    let panels = n.div_ceil(kernels.width);
    let tasks = panels.div_ceil(4).max(3 * rayon::current_num_threads()).min(panels);
    prepare(&[kernels.width * K_BLOCK]);
    // The left-hand side of a run is used by all panels of a task if all of it would not stay in the cache till the next.
    let runs_first = m * k > NEAR_VALUES;
    (0..tasks).into_par_iter().for_each(|task| {
        let mut panel = Buffer::stale(kernels.width * K_BLOCK);
        // While one panel is multiplied, what the next is made of comes near.
        let mut multiply = |(index, run): (usize, usize), next: (usize, usize)| {
            let column = index * kernels.width;
            let count = kernels.width.min(n - column);
            let length = K_BLOCK.min(k - run);
            let panel = &mut panel[..kernels.width * length];
            pack(kernels.isa, b.t(), n, column, run, kernels.width, panel);
            let left = match &packed_left {
                Some(packed) => Left::Panels(packed.run(run, length, 0..packed.panels)),
                None => Left::Rows(&a.data[run..], a.row_stride),
            };
            let add = into == Into::Add || run > 0;
            let next_column = next.0 * kernels.width;
            let columns = next_column..(next_column + kernels.width).min(n);
            let ks = next.1..(next.1 + K_BLOCK).min(k);
            let ahead = |i, count| fetch(b.t(), columns.clone(), ks.clone(), (i, count));
            // SAFETY: tasks write disjoint columns of `out`.
            unsafe { block(kernels, length, left, panel, m, count, target.at(column), n, add, ahead) };
        };
        let (panels, runs) = (part(panels, tasks, task), k.div_ceil(K_BLOCK));
        let of = |i: usize| match runs_first {
            true => (panels.start + i % panels.len(), i / panels.len() * K_BLOCK),
            false => (panels.start + i / runs, i % runs * K_BLOCK),
        };
        let all = panels.len() * runs;
        for i in 0..all {
            multiply(of(i), of((i + 1).min(all - 1)));
        }
    });
}

/// `out[m, n] = x[m, k] w[n, k]^T`: a linear layer with weights `[out, in]`.
pub fn matmul_nt(x: &[f32], w: &[f32], out: &mut [f32], m: usize, n: usize, k: usize) {
    check("matmul_nt", x.len(), m * k, w.len(), n * k);
    product((m, n, k), Strided::rows(x, k), Strided::rows(w, k).t(), Into::Overwrite, out);
}

/// `out[m, n] += x[m, k] w[n, k]^T`.
pub fn matmul_nt_add(x: &[f32], w: &[f32], out: &mut [f32], m: usize, n: usize, k: usize) {
    check("matmul_nt_add", x.len(), m * k, w.len(), n * k);
    product((m, n, k), Strided::rows(x, k), Strided::rows(w, k).t(), Into::Add, out);
}

/// `out[m, n] = a[m, k] b[k, n]`.
pub fn matmul_nn(a: &[f32], b: &[f32], out: &mut [f32], m: usize, n: usize, k: usize) {
    check("matmul_nn", a.len(), m * k, b.len(), k * n);
    product((m, n, k), Strided::rows(a, k), Strided::rows(b, n), Into::Overwrite, out);
}

/// `out[m, n] += a[k, m]^T b[k, n]`: the gradient of a weight.
pub fn matmul_tn_add(a: &[f32], b: &[f32], out: &mut [f32], m: usize, n: usize, k: usize) {
    check("matmul_tn_add", a.len(), m * k, b.len(), k * n);
    product((m, n, k), Strided::rows(a, m).t(), Strided::rows(b, n), Into::Add, out);
}

fn check(name: &str, a: usize, a_wanted: usize, b: usize, b_wanted: usize) {
    assert!(
        a == a_wanted && b == b_wanted,
        "{name}: operands hold {a} and {b} values, the sizes ask for {a_wanted} and {b_wanted}"
    );
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::kernels::micro::AVX512_TILES;

    fn values(count: usize, period: usize) -> Vec<f32> {
        (0..count).map(|i| (i % period) as f32 / period as f32 - 0.4).collect()
    }

    /// Which tile is used depends on the maker of the processor, so each is tested on every machine that can run it.
    #[test]
    fn both_tiles_of_avx512_give_the_same_bits() {
        if !Isa::Avx512.is_present() {
            return;
        }
        for (m, n, k) in
            [(1, 1, 1), (7, 95, 30), (15, 97, 513), (61, 48, 1100), (150, 500, 33), (300, 130, 700)]
        {
            let (a, b) = (values(m * k, 31), values(n * k, 37));
            let layouts = [
                (Strided::rows(&a, k), Strided::rows(&b, k).t()),
                (Strided::rows(&a, k), Strided::rows(&b, n)),
                (Strided::rows(&a, m).t(), Strided::rows(&b, n)),
            ];
            for (layout, (a, b)) in layouts.into_iter().enumerate() {
                let [one, other] = AVX512_TILES.map(|tile| {
                    let mut out = vec![1.0; m * n];
                    product_by(tile, (m, n, k), a, b, Into::Add, &mut out);
                    out
                });
                assert!(one == other, "layout {layout} of {m} x {n} x {k}");
                let term = |p: usize| a.data[p * a.col_stride] * b.data[p * b.row_stride];
                let first: f64 = (0..k).map(|p| f64::from(term(p))).sum();
                assert!((f64::from(one[0]) - 1.0 - first).abs() < 1e-4, "layout {layout} of {m} x {n} x {k}");
            }
        }
    }
}

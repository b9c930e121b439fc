//! Matrix products, cut into tiles by the problem's size so that the bits do not depend on the number of threads.

use rayon::prelude::*;

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

    fn last(&self, rows: usize, cols: usize) -> usize {
        (rows - 1) * self.row_stride + (cols - 1) * self.col_stride
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

/// `out[m, n] (+)= a[m, k] b[k, n]`, on the calling thread. `out` has rows `out_stride` apart.
///
/// # Safety
/// `out` must be valid for the strided `m x n` block and not be accessed by anyone else meanwhile.
#[allow(clippy::too_many_arguments)]
pub(crate) unsafe fn product_raw(
    (m, n, k): (usize, usize, usize),
    a: Strided,
    b: Strided,
    into: Into,
    out: *mut f32,
    out_stride: usize,
) {
    if m == 0 || n == 0 {
        return;
    }
    if k > 0 {
        assert!(a.last(m, k) < a.data.len() && b.last(k, n) < b.data.len(), "matmul: operand too short");
    }
    // SAFETY: reads stay inside both slices (asserted), writes inside `out` (caller).
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out,
            1,
            out_stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

const TILE_ROWS: usize = 512;
const TILE_COLS: usize = 512;

/// `out[m, n] (+)= a[m, k] b[k, n]` on all threads of the current pool.
pub(crate) fn product((m, n, k): (usize, usize, usize), a: Strided, b: Strided, into: Into, out: &mut [f32]) {
    assert_eq!(out.len(), m * n, "matmul: output of {} values for {m} x {n}", out.len());
    if m == 0 || n == 0 {
        return;
    }
    let (tiles_m, tiles_n) = (m.div_ceil(TILE_ROWS), n.div_ceil(TILE_COLS));
    let target = SharedMut::new(out);
    (0..tiles_m * tiles_n).into_par_iter().for_each(|tile| {
        let (row, col) = (tile % tiles_m * TILE_ROWS, tile / tiles_m * TILE_COLS);
        let (rows, cols) = ((m - row).min(TILE_ROWS), (n - col).min(TILE_COLS));
        let a = Strided { data: &a.data[(row * a.row_stride).min(a.data.len())..], ..a };
        let b = Strided { data: &b.data[(col * b.col_stride).min(b.data.len())..], ..b };
        // SAFETY: tiles are disjoint blocks of `out`.
        unsafe { product_raw((rows, cols, k), a, b, into, target.at(row * n + col), n) }
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

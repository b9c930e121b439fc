//! Matrix products of the three layouts by this crate and by its peers. With `a` and `b` of `m k` and `k n` values:
//! `nt` is `a [m, k] b [n, k]^T` (forward), `nn` is `a [m, k] b [k, n]` (gradient of the input), `tn` is
//! `out += a [k, m]^T b [k, n]` (gradient of the weight).
// Every benchmark uses a part of this.
#![allow(dead_code)]

use herd_tensor::kernels::{matmul_nn, matmul_nt, matmul_tn_add};

/// By this crate, on all threads of the current pool.
pub fn herd(layout: &str, (m, n, k): (usize, usize, usize), a: &[f32], b: &[f32], out: &mut [f32]) {
    match layout {
        "nt" => matmul_nt(a, b, out, m, n, k),
        "nn" => matmul_nn(a, b, out, m, n, k),
        _ => matmul_tn_add(a, b, out, m, n, k),
    }
}

/// Strides of `a`, then of `b`: from row to row and from column to column.
fn strides(layout: &str, (m, n, k): (usize, usize, usize)) -> [isize; 4] {
    let [m, n, k] = [m, n, k].map(|size| size as isize);
    let (a_rows, a_columns) = if layout == "tn" { (1, m) } else { (k, 1) };
    let (b_rows, b_columns) = if layout == "nt" { (1, k) } else { (n, 1) };
    [a_rows, a_columns, b_rows, b_columns]
}

/// By the `gemm` crate, on as many threads as the current pool has.
pub fn gemm(layout: &str, sizes: (usize, usize, usize), a: &[f32], b: &[f32], out: &mut [f32]) {
    let (m, n, k) = sizes;
    assert!(a.len() == m * k && b.len() == n * k && out.len() == m * n);
    let [a_rows, a_columns, b_rows, b_columns] = strides(layout, sizes);
    let parallelism = match rayon::current_num_threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    // SAFETY: the slices hold m k, k n and m n values.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            layout == "tn",
            a.as_ptr(),
            a_columns,
            a_rows,
            b.as_ptr(),
            b_columns,
            b_rows,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// By the `matrixmultiply` crate, on as many threads as MATMUL_NUM_THREADS says.
pub fn matrixmultiply(layout: &str, sizes: (usize, usize, usize), a: &[f32], b: &[f32], out: &mut [f32]) {
    let (m, n, k) = sizes;
    assert!(a.len() == m * k && b.len() == n * k && out.len() == m * n);
    let [a_rows, a_columns, b_rows, b_columns] = strides(layout, sizes);
    let beta = if layout == "tn" { 1.0 } else { 0.0 };
    let (a, b, out) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
    // SAFETY: the slices hold m k, k n and m n values.
    unsafe {
        matrixmultiply::sgemm(
            m, k, n, 1.0, a, a_rows, a_columns, b, b_rows, b_columns, beta, out, n as isize, 1,
        );
    }
}

//! Packing: a strip of a matrix copied into panels, so that micro-kernels read memory in order.
//!
//! A panel holds `width` rows (of the left-hand side) or columns (of the right-hand side) for a run of the inner
//! dimension: `panel[p * width + i]`, with zeros beyond the edge of the matrix.

use super::matmul::Strided;
use crate::isa::Isa;
use std::ops::Range;

/// Rows ahead of use that are asked for.
const ROWS_AHEAD: usize = 6;

/// Packs element `(first + i, start + p)` of `source` to `panel[p * width + i]` for `p < panel.len() / width`; rows at or
/// beyond `rows` become 0.
pub(crate) fn pack(
    isa: Isa,
    source: Strided,
    rows: usize,
    first: usize,
    start: usize,
    width: usize,
    panel: &mut [f32],
) {
    let count = width.min(rows - first);
    let k = panel.len() / width;
    let last = (first + count - 1) * source.row_stride + (start + k - 1) * source.col_stride;
    assert!(last < source.data.len(), "matmul: operand too short");
    let data = &source.data[first * source.row_stride + start * source.col_stride..];
    if count < width {
        panel.fill(0.0);
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction set is present, and the last element read was checked above.
        Isa::Avx512 => unsafe {
            if source.col_stride == 1 {
                x86::transpose(data, source.row_stride, count, width, panel);
            } else if source.row_stride == 1 {
                x86::copy(data, source.col_stride, count, width, panel);
            } else {
                general(data, source, count, width, panel);
            }
        },
        _ if source.row_stride == 1 => {
            for (p, out) in panel.chunks_exact_mut(width).enumerate() {
                out[..count].copy_from_slice(&data[p * source.col_stride..][..count]);
            }
        }
        _ => general(data, source, count, width, panel),
    }
}

/// Packs columns of `source` (rows of its transpose that lie one after the other in memory) for a whole block: element
/// `(start + p)` of row `first + i` goes to `panels[i / width][p][i % width]`, for `i < rows` and `p < k`, zeros beyond.
/// Memory is read in long runs, whatever the width of a panel.
pub(crate) fn pack_across(
    source: Strided,
    rows: Range<usize>,
    ks: Range<usize>,
    width: usize,
    panels: &mut [f32],
) {
    assert_eq!(source.row_stride, 1, "pack_across: the rows are not next to each other");
    let (count, k) = (rows.len(), ks.len());
    assert!(panels.len() >= count.next_multiple_of(width) * k, "matmul: no room for the panels");
    if !count.is_multiple_of(width) {
        let last = count / width * width * k;
        panels[last..last + width * k].fill(0.0);
    }
    for (p, at) in ks.enumerate() {
        // The hardware follows a row, but not the jump to the next.
        let ahead = source.data.as_ptr().wrapping_add((at + ROWS_AHEAD) * source.col_stride + rows.start);
        for line in (0..count).step_by(16) {
            prefetch::<NEAR>(ahead.wrapping_add(line));
        }
        let row = &source.data[at * source.col_stride + rows.start..][..count];
        for (panel, values) in row.chunks(width).enumerate() {
            panels[(panel * k + p) * width..][..values.len()].copy_from_slice(values);
        }
    }
}

/// Asks, for the second-level cache, for part `index` of `count` of what [`pack`] will read for rows `rows` and terms `ks`.
pub(crate) fn fetch(source: Strided, rows: Range<usize>, ks: Range<usize>, (index, count): (usize, usize)) {
    // Along memory, and across it.
    let (along, across, stride) = match source.col_stride {
        1 => (ks, rows, source.row_stride),
        _ => (rows, ks, source.col_stride),
    };
    let first = across.start + across.len() * index / count;
    let last = across.start + across.len() * (index + 1) / count;
    for line in first..last {
        let from = source.data.as_ptr().wrapping_add(line * stride + along.start);
        for at in (0..along.len()).step_by(16) {
            prefetch::<FAR>(from.wrapping_add(at));
        }
    }
}

/// Into all caches, and into the second-level one.
const NEAR: i32 = 3;
const FAR: i32 = 2;

/// Asks for the cache line at `at`, which may lie anywhere.
#[inline(always)]
fn prefetch<const HINT: i32>(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<HINT>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

fn general(data: &[f32], source: Strided, count: usize, width: usize, panel: &mut [f32]) {
    for i in 0..count {
        let row = &data[i * source.row_stride..];
        for (p, out) in panel.chunks_exact_mut(width).enumerate() {
            out[i] = row[p * source.col_stride];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Floats ahead of use that rows are prefetched: there are more rows than the hardware follows.
    const AHEAD: usize = 128;

    fn mask(count: usize) -> __mmask16 {
        if count >= 16 { 0xffff } else { (1 << count) - 1 }
    }

    /// `panel[p * width + i] = data[p * stride + i]`.
    ///
    /// # Safety
    /// Needs AVX-512 F; all elements read must be inside `data`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn copy(data: &[f32], stride: usize, count: usize, width: usize, panel: &mut [f32]) {
        for (p, out) in panel.chunks_exact_mut(width).enumerate() {
            for i in (0..count).step_by(16) {
                let mask = mask(count - i);
                // SAFETY: masked to `count` elements, which are inside `data` (caller) and `out` (`count <= width`).
                unsafe {
                    let values = _mm512_maskz_loadu_ps(mask, data.as_ptr().add(p * stride + i));
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(i), mask, values);
                }
            }
        }
    }

    /// `panel[p * width + i] = data[i * stride + p]`.
    ///
    /// # Safety
    /// Needs AVX-512 F; all elements read must be inside `data`.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(
        data: &[f32],
        stride: usize,
        count: usize,
        width: usize,
        panel: &mut [f32],
    ) {
        let k = panel.len() / width;
        for i in (0..count).step_by(16) {
            let rows = (count - i).min(16);
            let whole = if rows == 16 && (i + 16 <= width) { k / 16 * 16 } else { 0 };
            // SAFETY: rows `i..i + rows` and all columns are inside `data` (caller), and the stores inside the panel.
            unsafe {
                let (from, to) = (data.as_ptr().add(i * stride), panel.as_mut_ptr().add(i));
                for p in (0..whole).step_by(16) {
                    transpose_whole(from.add(p), stride, to.add(p * width), width);
                }
                for p in (whole..k).step_by(16) {
                    transpose_edge(from.add(p), stride, rows, to.add(p * width), width, (k - p).min(16));
                }
            }
        }
    }

    /// 16 rows and columns.
    ///
    /// # Safety
    /// Needs AVX-512 F; 16 rows `stride` apart are readable, and 16 `width` apart writable.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn transpose_whole(from: *const f32, stride: usize, to: *mut f32, width: usize) {
        // SAFETY: the caller's. Addresses are multiples 1 to 3 of the stride from every fourth row, which takes few registers.
        unsafe {
            let row = |r: usize| from.add(r / 4 * 4 * stride).add(r % 4 * stride);
            let tile: [__m512; 16] = std::array::from_fn(|r| {
                _mm_prefetch::<_MM_HINT_T0>(row(r).wrapping_add(AHEAD).cast());
                _mm512_loadu_ps(row(r))
            });
            for (c, column) in transpose16(tile).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(c * width), column);
            }
        }
    }

    /// Up to 16 rows and columns.
    ///
    /// # Safety
    /// Needs AVX-512 F; the rows are readable for so many columns, and so many columns `width` apart writable for the rows.
    #[target_feature(enable = "avx512f")]
    #[inline(never)]
    unsafe fn transpose_edge(
        from: *const f32,
        stride: usize,
        rows: usize,
        to: *mut f32,
        width: usize,
        columns: usize,
    ) {
        let (row_mask, column_mask) = (mask(rows), mask(columns));
        let mut tile = [_mm512_setzero_ps(); 16];
        // SAFETY: the caller's; masked to the columns and rows that are there.
        unsafe {
            for (r, tile) in tile.iter_mut().enumerate().take(rows) {
                *tile = _mm512_maskz_loadu_ps(column_mask, from.add(r * stride));
            }
            for (c, column) in transpose16(tile).iter().enumerate().take(columns) {
                _mm512_mask_storeu_ps(to.add(c * width), row_mask, *column);
            }
        }
    }

    /// The transpose of a 16 x 16 tile, in four rounds of pairwise exchange.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn transpose16(t: [__m512; 16]) -> [__m512; 16] {
        let mut u = [_mm512_setzero_ps(); 16];
        for i in 0..8 {
            u[2 * i] = _mm512_unpacklo_ps(t[2 * i], t[2 * i + 1]);
            u[2 * i + 1] = _mm512_unpackhi_ps(t[2 * i], t[2 * i + 1]);
        }
        let pd = |x: __m512| _mm512_castps_pd(x);
        let ps = |x: __m512d| _mm512_castpd_ps(x);
        let mut v = [_mm512_setzero_ps(); 16];
        for i in 0..4 {
            v[4 * i] = ps(_mm512_unpacklo_pd(pd(u[4 * i]), pd(u[4 * i + 2])));
            v[4 * i + 1] = ps(_mm512_unpackhi_pd(pd(u[4 * i]), pd(u[4 * i + 2])));
            v[4 * i + 2] = ps(_mm512_unpacklo_pd(pd(u[4 * i + 1]), pd(u[4 * i + 3])));
            v[4 * i + 3] = ps(_mm512_unpackhi_pd(pd(u[4 * i + 1]), pd(u[4 * i + 3])));
        }
        // Now v[4 i + j] holds, in its 128-bit lane l, rows 4 i .. 4 i + 4 of column 4 l + j.
        let mut out = [_mm512_setzero_ps(); 16];
        for j in 0..4 {
            let a = _mm512_shuffle_f32x4::<0b10_00_10_00>(v[j], v[4 + j]);
            let b = _mm512_shuffle_f32x4::<0b11_01_11_01>(v[j], v[4 + j]);
            let c = _mm512_shuffle_f32x4::<0b10_00_10_00>(v[8 + j], v[12 + j]);
            let d = _mm512_shuffle_f32x4::<0b11_01_11_01>(v[8 + j], v[12 + j]);
            out[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, c);
            out[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, c);
            out[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(b, d);
            out[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(b, d);
        }
        out
    }
}

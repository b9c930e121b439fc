//! Packing: a strip of a matrix copied into panels, so that micro-kernels read memory in order.
//!
//! A panel holds `width` rows (of the left-hand side) or columns (of the right-hand side) for a run of the inner
//! dimension: `panel[p * width + i]`, with zeros beyond the edge of the matrix.

use super::matmul::Strided;
use crate::isa::Isa;

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
    rows: std::ops::Range<usize>,
    ks: std::ops::Range<usize>,
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
            prefetch(ahead.wrapping_add(line));
        }
        let row = &source.data[at * source.col_stride + rows.start..][..count];
        for (panel, values) in row.chunks(width).enumerate() {
            panels[(panel * k + p) * width..][..values.len()].copy_from_slice(values);
        }
    }
}

/// Asks for the cache line at `at`, which may lie anywhere.
#[inline(always)]
fn prefetch(at: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address is harmless.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
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
            let row_mask = mask(rows);
            for p in (0..k).step_by(16) {
                let columns = (k - p).min(16);
                let column_mask = mask(columns);
                // SAFETY: rows `i..i + rows` and columns `p..p + columns` are inside `data` (caller); stores are masked
                // to `rows` values of the `columns` panel rows.
                unsafe {
                    let mut tile = [_mm512_setzero_ps(); 16];
                    let from = data.as_ptr().add(i * stride + p);
                    for r in 0..rows {
                        _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(r * stride + AHEAD) as *const i8);
                    }
                    if rows == 16 && columns == 16 {
                        for (r, tile) in tile.iter_mut().enumerate() {
                            *tile = _mm512_loadu_ps(from.add(r * stride));
                        }
                    } else {
                        for (r, tile) in tile.iter_mut().enumerate().take(rows) {
                            *tile = _mm512_maskz_loadu_ps(column_mask, from.add(r * stride));
                        }
                    }
                    let tile = transpose16(tile);
                    let to = panel.as_mut_ptr().add(p * width + i);
                    if columns == 16 {
                        for (c, tile) in tile.iter().enumerate() {
                            _mm512_mask_storeu_ps(to.add(c * width), row_mask, *tile);
                        }
                    } else {
                        for (c, tile) in tile.iter().enumerate().take(columns) {
                            _mm512_mask_storeu_ps(to.add(c * width), row_mask, *tile);
                        }
                    }
                }
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

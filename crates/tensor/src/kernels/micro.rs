//! Micro-kernels: a block of `rows x width` of a matrix product, held in registers over a run of the inner dimension.
//!
//! The right-hand side is a packed panel `[k][width]`. The left-hand side is read through strides: a packed panel has
//! row stride 1. Each output element is one chain of fused multiply-adds over `k`, so it does not depend on which
//! other rows are computed with it.

use crate::isa::{Isa, active};

/// `(k, a, a_row_stride, a_k_stride, b, c, c_row_stride, add)`: `c (+)= a b`.
///
/// # Safety
/// `a` is readable at `i * a_row_stride + p * a_k_stride` for the kernel's rows `i` and `p < k`, `b` at
/// `0..k * width`, and `c` is writable for the kernel's rows of `width` values, `c_row_stride` apart.
pub(crate) type Kernel = unsafe fn(usize, *const f32, usize, usize, *const f32, *mut f32, usize, bool);

/// Most rows any kernel has.
pub(crate) const MAX_ROWS: usize = 14;
/// Most columns any kernel has.
pub(crate) const MAX_WIDTH: usize = 48;

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub isa: Isa,
    /// Rows of a full block.
    pub rows: usize,
    /// Columns of a block.
    pub width: usize,
    /// The kernel for `i + 1` rows at index `i`, reading a packed left-hand panel (its strides are ignored).
    pub packed: &'static [Kernel],
    /// The same, reading the left-hand side through its strides.
    pub strided: &'static [Kernel],
}

/// The kernels for matrix products: like [`kernels`], except where a wider tile is faster.
pub(crate) fn product_kernels() -> &'static Kernels {
    match active() {
        // Two multiply-adds a cycle outrun the loads of the narrow tile on Intel's processors; on AMD's Zen 4, which makes
        // one, the narrow tile is a hundredth faster.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if x86::is_intel() => &x86::AVX512_WIDE,
        _ => kernels(),
    }
}

/// The kernels of AVX-512, narrow and wide.
#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) static AVX512_TILES: [&Kernels; 2] = [&x86::AVX512, &x86::AVX512_WIDE];

/// The kernels in use. Their width divides the blocks of attention.
pub(crate) fn kernels() -> &'static Kernels {
    match active() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &x86::AVX512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &x86::AVX2,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => &arm::NEON,
        _ => &PORTABLE,
    }
}

macro_rules! table {
    ($kernel:ident, $($constant:literal,)+ [$($rows:literal),*]) => { table!(@ $kernel ($($constant),+) $($rows)*) };
    (@ $kernel:ident $constants:tt $($rows:literal)*) => { &[$(table!(@ $kernel, $rows, $constants)),*] };
    (@ $kernel:ident, $rows:literal, ($($constant:literal),+)) => { $kernel::<$rows, $($constant),+> as Kernel };
}

static PORTABLE: Kernels = Kernels {
    isa: Isa::Portable,
    rows: 4,
    width: 8,
    packed: table!(portable, true, [1, 2, 3, 4]),
    strided: table!(portable, false, [1, 2, 3, 4]),
};

/// See [`Kernel`].
#[allow(clippy::too_many_arguments)]
unsafe fn portable<const R: usize, const PACKED: bool>(
    k: usize,
    a: *const f32,
    a_row: usize,
    a_k: usize,
    b: *const f32,
    c: *mut f32,
    c_row: usize,
    add: bool,
) {
    const W: usize = 8;
    let (a_row, a_k) = if PACKED { (1, PORTABLE.rows) } else { (a_row, a_k) };
    let mut sums = [[0.0f32; W]; R];
    for p in 0..k {
        // SAFETY: `p < k`, within the panel (caller).
        let b = unsafe { std::slice::from_raw_parts(b.add(p * W), W) };
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `i < R`, `p < k` (caller).
            let x = unsafe { *a.add(i * a_row + p * a_k) };
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum = super::elementary::fma::<{ crate::isa::PORTABLE_FMA }>(x, *b, *sum);
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: row `i` of the output block (caller).
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * c_row), W) };
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if add { *c + sum } else { *sum };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Isa, Kernel, Kernels};
    use std::arch::x86_64::*;
    use std::sync::LazyLock;

    pub(super) static AVX512: Kernels = Kernels {
        isa: Isa::Avx512,
        rows: 14,
        width: 32,
        packed: table!(avx512, 2, true, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
        strided: table!(avx512, 2, false, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
    };

    /// Loads less for each multiply-add: 11 times for 24, where the other loads 16 times for 28.
    pub(super) static AVX512_WIDE: Kernels = Kernels {
        isa: Isa::Avx512,
        rows: 8,
        width: 48,
        packed: table!(avx512, 3, true, [1, 2, 3, 4, 5, 6, 7, 8]),
        strided: table!(avx512, 3, false, [1, 2, 3, 4, 5, 6, 7, 8]),
    };

    pub(super) static AVX2: Kernels = Kernels {
        isa: Isa::Avx2,
        rows: 6,
        width: 16,
        packed: table!(avx2, true, [1, 2, 3, 4, 5, 6]),
        strided: table!(avx2, false, [1, 2, 3, 4, 5, 6]),
    };

    /// Whether the processor is Intel's.
    pub(super) fn is_intel() -> bool {
        static INTEL: LazyLock<bool> = LazyLock::new(|| {
            let leaf = __cpuid(0);
            [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel"
        });
        *INTEL
    }

    /// Rows of a full block of `vectors` times 16 columns.
    const fn full_rows(vectors: usize) -> usize {
        if vectors == 2 { AVX512.rows } else { AVX512_WIDE.rows }
    }

    /// See [`Kernel`]. Needs AVX-512 F. 14 rows of 2 vectors take 28 of the 32 registers, 8 of 3 take 24; the right-hand
    /// side takes 2 or 3.
    #[target_feature(enable = "avx512f")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn avx512<const R: usize, const V: usize, const PACKED: bool>(
        k: usize,
        a: *const f32,
        a_row: usize,
        a_k: usize,
        b: *const f32,
        c: *mut f32,
        c_row: usize,
        add: bool,
    ) {
        let (a_row, a_k) = if PACKED { (1, full_rows(V)) } else { (a_row, a_k) };
        // SAFETY: all offsets are within what the caller promises.
        unsafe {
            for i in 0..R {
                for v in 0..V {
                    _mm_prefetch::<_MM_HINT_T0>(c.add(i * c_row + 16 * v) as *const i8);
                }
            }
            let mut sums = [[_mm512_setzero_ps(); V]; R];
            let (mut a, mut b) = (a, b);
            let mut left = k;
            while left > 0 {
                // A packed left-hand side comes from the second-level cache: ask for it ahead, a line per row and 16 steps.
                let steps = if PACKED { left.min(16) } else { left };
                if PACKED {
                    for i in 0..R {
                        _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add(2048 + 16 * i) as *const i8);
                    }
                }
                for _ in 0..steps {
                    let mut right = [_mm512_setzero_ps(); V];
                    for (v, right) in right.iter_mut().enumerate() {
                        *right = _mm512_loadu_ps(b.add(16 * v));
                    }
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_ps(*a.add(i * a_row));
                        for (sum, right) in sums.iter_mut().zip(right) {
                            *sum = _mm512_fmadd_ps(x, right, *sum);
                        }
                    }
                    a = a.add(a_k);
                    b = b.add(16 * V);
                }
                left -= steps;
            }
            for (i, sums) in sums.iter().enumerate() {
                let c = c.add(i * c_row);
                for (v, sum) in sums.iter().enumerate() {
                    let c = c.add(16 * v);
                    let value = if add { _mm512_add_ps(_mm512_loadu_ps(c), *sum) } else { *sum };
                    _mm512_storeu_ps(c, value);
                }
            }
        }
    }

    /// See [`Kernel`]. Needs AVX2 and FMA. 6 rows take 12 of the 16 registers.
    #[target_feature(enable = "avx2,fma")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn avx2<const R: usize, const PACKED: bool>(
        k: usize,
        a: *const f32,
        a_row: usize,
        a_k: usize,
        b: *const f32,
        c: *mut f32,
        c_row: usize,
        add: bool,
    ) {
        let (a_row, a_k) = if PACKED { (1, AVX2.rows) } else { (a_row, a_k) };
        // SAFETY: all offsets are within what the caller promises.
        unsafe {
            for i in 0..R {
                _mm_prefetch::<_MM_HINT_T0>(c.add(i * c_row) as *const i8);
            }
            let mut sums = [[_mm256_setzero_ps(); 2]; R];
            let (mut a, mut b) = (a, b);
            for _ in 0..k {
                let (b0, b1) = (_mm256_loadu_ps(b), _mm256_loadu_ps(b.add(8)));
                for (i, sum) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(i * a_row));
                    sum[0] = _mm256_fmadd_ps(x, b0, sum[0]);
                    sum[1] = _mm256_fmadd_ps(x, b1, sum[1]);
                }
                a = a.add(a_k);
                b = b.add(16);
            }
            for (i, sum) in sums.iter().enumerate() {
                let c = c.add(i * c_row);
                for (half, sum) in sum.iter().enumerate() {
                    let c = c.add(8 * half);
                    let value = if add { _mm256_add_ps(_mm256_loadu_ps(c), *sum) } else { *sum };
                    _mm256_storeu_ps(c, value);
                }
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use super::{Isa, Kernel, Kernels};
    use std::arch::aarch64::*;

    pub(super) static NEON: Kernels = Kernels {
        isa: Isa::Neon,
        rows: 6,
        width: 16,
        packed: table!(neon, true, [1, 2, 3, 4, 5, 6]),
        strided: table!(neon, false, [1, 2, 3, 4, 5, 6]),
    };

    /// See [`Kernel`]. 6 rows take 24 of the 32 registers, the right-hand side 4.
    #[target_feature(enable = "neon")]
    #[allow(clippy::too_many_arguments)]
    unsafe fn neon<const R: usize, const PACKED: bool>(
        k: usize,
        a: *const f32,
        a_row: usize,
        a_k: usize,
        b: *const f32,
        c: *mut f32,
        c_row: usize,
        add: bool,
    ) {
        let (a_row, a_k) = if PACKED { (1, NEON.rows) } else { (a_row, a_k) };
        // SAFETY: all offsets are within what the caller promises.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); 4]; R];
            let (mut a, mut b) = (a, b);
            for _ in 0..k {
                let right = [vld1q_f32(b), vld1q_f32(b.add(4)), vld1q_f32(b.add(8)), vld1q_f32(b.add(12))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = vld1q_dup_f32(a.add(i * a_row));
                    for (sum, right) in sums.iter_mut().zip(right) {
                        *sum = vfmaq_f32(*sum, x, right);
                    }
                }
                a = a.add(a_k);
                b = b.add(16);
            }
            for (i, sums) in sums.iter().enumerate() {
                for (quarter, sum) in sums.iter().enumerate() {
                    let c = c.add(i * c_row + 4 * quarter);
                    let value = if add { vaddq_f32(vld1q_f32(c), *sum) } else { *sum };
                    vst1q_f32(c, value);
                }
            }
        }
    }
}

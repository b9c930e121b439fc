//! The product of [`super::quant`] with Intel's tiles (AMX-INT8), for 16 rows of activations at once.
//!
//! A tile holds 16 rows of 64 bytes. One instruction multiplies 16 rows of activations, 32 columns each, with a block
//! of 32 columns of a panel, which lies as the instruction wants it: four columns of 16 rows to a line. The 256 sums
//! are whole numbers, so they are those of the other kernels, and what is done with them is done in the same order:
//! all kernels give the same bits.

use super::ints::{Ints, STEP};
use super::lanes::{LANES, Lanes};
use super::planes::{Format, with_format};
use super::quant::{self, GROUP, Product, WORDS, scale_of, step};
use super::x86::Avx512;
use crate::gguf::BlockType;
use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;

/// Rows of activations that are multiplied at once.
pub(super) const ROWS: usize = quant::ROW_MAJOR;

/// Whether processor and system have tiles of bytes. Asks the system for leave to use them (Linux wants that once a
/// process, before the first tile instruction).
pub(super) fn is_present() -> bool {
    const AMX_TILE: u32 = 1 << 24;
    const AMX_INT8: u32 = 1 << 25;
    if !cfg!(target_os = "linux") || __cpuid(0).eax < 7 {
        return false;
    }
    __cpuid_count(7, 0).edx & (AMX_TILE | AMX_INT8) == AMX_TILE | AMX_INT8 && allowed()
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
fn allowed() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XTILEDATA: i64 = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: a system call that reads and writes no memory of ours; the kernel clobbers rcx and r11.
    unsafe {
        asm!("syscall", inout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XTILEDATA,
            out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    columns: [u16; 16],
    rows: [u8; 16],
}

/// Tile 0: sums. 1 and 2: activations and weights of 32 columns. 3 and 4: of 16 columns.
static TILES: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    columns: [64, 32, 64, 16, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 8, 16, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Sums of 16 rows of activations and 16 of weights.
#[repr(align(64))]
struct Sums([[i32; LANES]; ROWS]);

thread_local! {
    /// The numbers of one panel, a byte each, and room to align them.
    static PANEL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// All panels times all rows; the activations lie in groups of [`ROWS`], then as [`quant::product`] wants them.
///
/// # Safety
/// As for [`quant::product`], and [`is_present`] said yes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn product(p: Product) {
    PANEL.with_borrow_mut(|panel| {
        panel.resize((p.blocks * 8 * STEP + 63).max(panel.len()), 0);
        let numbers = panel.as_mut_ptr();
        // SAFETY: room for a panel and for the alignment; the tiles are let go before anything else runs here.
        unsafe {
            let numbers = numbers.add(numbers.align_offset(64).min(63));
            asm!("ldtilecfg [{}]", in(reg) &TILES, options(nostack, readonly));
            multiply(p, numbers);
            asm!("tilerelease", options(nostack, nomem));
        }
    });
}

/// # Safety
/// As for [`product`]; `numbers` has room for a panel with a byte a number.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
unsafe fn multiply(p: Product, numbers: *mut u8) {
    unsafe { with_format!(p.kind, panels::<Avx512, _>(p, numbers)) }
}

#[inline(always)]
unsafe fn panels<L: Ints, F: Format>(p: Product, numbers: *mut u8) {
    for panel in 0..p.panels {
        let lanes = (p.rows - panel * LANES).min(LANES);
        // SAFETY: the panel, the rows and their results lie inside the product.
        unsafe {
            let weights = p.weights.add(panel * p.panel_bytes);
            let scales = weights.add(p.blocks * F::BITS * STEP);
            unpack::<F>(weights, p.blocks, numbers);
            let place = |row: usize| {
                let out = p.out.add(row * p.stride + panel * LANES);
                (p.x.add(row * p.blocks * WORDS), (out, p.stride, lanes))
            };
            let mut row = 0;
            while p.m - row >= ROWS {
                let (x, out) = place(row);
                tile::<F>(numbers, scales, p.blocks, x, out);
                row += ROWS;
            }
            while row < p.m {
                let (x, out) = place(row);
                row += match p.m - row {
                    GROUP.. => quant::tile::<L, F, GROUP, false>(weights, p.blocks, x, out, p.next),
                    4.. => quant::tile::<L, F, 4, false>(weights, p.blocks, x, out, p.next),
                    2.. => quant::tile::<L, F, 2, false>(weights, p.blocks, x, out, p.next),
                    _ => quant::tile::<L, F, 1, false>(weights, p.blocks, x, out, p.next),
                };
            }
        }
    }
}

/// The numbers of a panel as signed bytes, without their bias.
#[inline(always)]
unsafe fn unpack<F: Format>(weights: *const u8, blocks: usize, numbers: *mut u8) {
    // SAFETY: `blocks` blocks, read packed and written with a byte a number.
    unsafe {
        let bias = _mm512_set1_epi8(if F::MIN { 0 } else { (1u8 << F::BIAS_POWER) as i8 });
        for b in 0..blocks {
            for j in 0..8 {
                let w = step::<Avx512, F>(weights.add(b * F::BITS * STEP), j);
                _mm512_store_si512(numbers.add((b * 8 + j) * STEP).cast(), _mm512_sub_epi8(w, bias));
            }
        }
    }
}

/// One panel times [`ROWS`] rows.
#[inline(always)]
unsafe fn tile<F: Format>(
    numbers: *const u8,
    scales: *const u8,
    blocks: usize,
    x: *const i32,
    (out, stride, lanes): (*mut f32, usize, usize),
) {
    // SAFETY: `blocks` blocks of numbers and of activations; the tiles were configured by `product`.
    unsafe {
        let mut total = [Avx512::splat(0.0); ROWS];
        // Two in turns, so that the sums of the next block need not wait for these to be read.
        let mut buffers = [const { Sums([[0; LANES]; ROWS]) }; 2];
        for b in 0..blocks {
            let x = x.add(b * ROWS * WORDS);
            let (scale_x, sum_x) = (x.add(8 * ROWS).cast::<f32>(), x.add(9 * ROWS).cast::<f32>());
            let (minus, minus_first) = (x.add(10 * ROWS), x.add(11 * ROWS));
            for half in 0..F::SCALES {
                let w = numbers.add((b * 8 + half * 4) * STEP);
                let sums = &mut buffers[(b * F::SCALES + half) % 2];
                match F::SCALES {
                    1 => asm!(
                        "tilezero tmm0",
                        "tileloadd tmm2, [{w} + {line}]",
                        "tileloadd tmm1, [{x} + {row}]",
                        "tdpbssd tmm0, tmm1, tmm2",
                        "tilestored [{to} + {line}], tmm0",
                        w = in(reg) w, x = in(reg) x, to = in(reg) sums, row = in(reg) 32usize,
                        line = in(reg) STEP, out("tmm0") _, out("tmm1") _, out("tmm2") _,
                        options(nostack),
                    ),
                    _ => asm!(
                        "tilezero tmm0",
                        "tileloadd tmm4, [{w} + {line}]",
                        "tileloadd tmm3, [{x} + {row}]",
                        "tdpbssd tmm0, tmm3, tmm4",
                        "tilestored [{to} + {line}], tmm0",
                        w = in(reg) w, x = in(reg) x.add(4 * half), to = in(reg) sums, row = in(reg) 32usize,
                        line = in(reg) STEP, out("tmm0") _, out("tmm3") _, out("tmm4") _,
                        options(nostack),
                    ),
                }
                let (scale, min) = scale_of::<Avx512, F>(scales, b, half);
                for (r, total) in total.iter_mut().enumerate() {
                    let sum = Avx512::float(_mm512_load_si512(sums.0[r].as_ptr().cast()));
                    *total = total.fma(sum, scale.mul(Avx512::splat(*scale_x.add(r))));
                    if F::MIN {
                        let sum = match (F::SCALES, half) {
                            (1, _) => *sum_x.add(r),
                            (_, 0) => -(*minus_first.add(r) as f32) * *scale_x.add(r),
                            _ => -((*minus.add(r) - *minus_first.add(r)) as f32) * *scale_x.add(r),
                        };
                        *total = total.fma(min, Avx512::splat(sum));
                    }
                }
            }
        }
        for (r, total) in total.into_iter().enumerate() {
            let out = out.add(r * stride);
            if lanes == LANES { total.store(out) } else { total.store_first(out, lanes) }
        }
    }
}

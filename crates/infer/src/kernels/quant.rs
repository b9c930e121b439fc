//! Products with quantised weights: activations become bytes, sums are whole numbers, scales are floats.
//!
//! Activations are quantised in blocks of 32 columns: `x = scale * number` with numbers within -127..=127. The rows
//! are taken in groups of 8, 4, 2 and 1; a group keeps what a kernel reads in one stream: per block first the numbers
//! (for each four columns those of all rows; in groups of 16, for [`super::amx`], row after row), then scale, scale times sum, minus the sum, minus the sum of the first
//! 16 numbers, of all rows.
//!
//! A row's output is, block after block, `f += scale * (whole sum)` and `f += min * (sum of the activations)`. The
//! order depends on nothing else, so a row has the same bits in a group of any size and on any instruction set.

use super::ints::{Ints, STEP};
use super::lanes::LANES;
use super::planes::{BLOCK, Format, SUPER, with_format};
use crate::gguf::BlockType;
use crate::prefetch::fetch_bytes;

/// Largest group of rows.
pub(super) const GROUP: usize = 8;
/// Size of the groups whose numbers lie row after row.
pub(super) const ROW_MAJOR: usize = 16;
/// Rows that come to so few operations for each weight that weights are fetched from memory ahead.
pub(crate) const FEW_ROWS: usize = 16;
/// Words (of 4 bytes) of one row and block: 8 of numbers and 4 more.
pub(super) const WORDS: usize = BLOCK / 4 + 4;

/// First row and size of the group after `last` (or of the first one) of `m` rows, as [`panels`] takes them; `largest`
/// is [`GROUP`] or [`ROW_MAJOR`].
pub(super) fn next_group(last: Option<(usize, usize)>, m: usize, largest: usize) -> Option<(usize, usize)> {
    let first = last.map_or(0, |(first, size)| first + size);
    match m - first {
        0 => None,
        rest if rest >= largest => Some((first, largest)),
        GROUP.. => Some((first, GROUP)),
        4.. => Some((first, 4)),
        2.. => Some((first, 2)),
        _ => Some((first, 1)),
    }
}

/// Quantises one row of `blocks * 32` floats into its place in a group of `size` rows at `group`, and if it is `fine` what
/// that leaves over, at most half a step of each block, into the place after it.
///
/// # Safety
/// The pointers must cover the row and the group, and the processor must have the features of `L`.
#[inline(always)]
pub(super) unsafe fn quantise_row<L: Ints>(
    x: *const f32,
    blocks: usize,
    (row, size): (usize, usize),
    fine: bool,
    group: *mut i32,
) {
    for b in 0..blocks {
        // SAFETY: block b of the row, and the words of this row, and of the next one, in block b of the group.
        unsafe {
            let x = (L::load(x.add(b * BLOCK)), L::load(x.add(b * BLOCK + LANES)));
            let to = group.add(b * size * WORDS);
            let rest = quantise_block(x, (row, size), to);
            if fine {
                quantise_block(rest, (row + 1, size), to);
            }
        }
    }
}

/// Quantises one block into the words `to` of its group; returns what that leaves over.
///
/// # Safety
/// As for [`quantise_row`].
#[inline(always)]
unsafe fn quantise_block<L: Ints>((low, high): (L, L), (row, size): (usize, usize), to: *mut i32) -> (L, L) {
    // SAFETY: the words of this row in the block.
    unsafe {
        let largest = low.abs().max(high.abs()).largest();
        let scale = largest / 127.0;
        let inverse = L::splat(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let x = (low, high);
        let (low, high) = (low.mul(inverse).round(), high.mul(inverse).round());
        let mut numbers = [0i32; BLOCK / 4];
        low.store_i8(numbers.as_mut_ptr().cast());
        high.store_i8(numbers.as_mut_ptr().cast::<i8>().add(LANES));
        let (first, second) = (low.sum(), high.sum());
        for (j, number) in numbers.into_iter().enumerate() {
            *to.add(if size == ROW_MAJOR { row * numbers.len() + j } else { j * size + row }) = number;
        }
        let to = to.add(row);
        *to.add(8 * size).cast::<f32>() = scale;
        *to.add(9 * size).cast::<f32>() = scale * (first + second);
        *to.add(10 * size) = -((first + second) as i32);
        *to.add(11 * size) = -(first as i32);
        let minus = L::splat(-scale);
        (x.0.add(low.mul(minus)), x.1.add(high.mul(minus)))
    }
}

/// Where the panels of a product lie and where its results go.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub kind: BlockType,
    /// The first panel; `panels` of them, `panel_bytes` apart.
    pub weights: *const u8,
    pub panels: usize,
    pub panel_bytes: usize,
    /// A panel that is likely to be read after these, or null.
    pub next: *const u8,
    /// Blocks of a row.
    pub blocks: usize,
    /// Quantised activations of `m` rows.
    pub x: *const i32,
    pub m: usize,
    /// Result of the first row of weights and of activations; rows of activations are `stride` apart.
    pub out: *mut f32,
    pub stride: usize,
    /// Rows of weights, 16 to a panel, the last one perhaps partly filled.
    pub rows: usize,
}

/// All panels times all rows.
///
/// # Safety
/// The pointers must cover the sizes of the product, and the processor must have the features of `L`.
#[inline(always)]
pub(super) unsafe fn product<L: Ints>(p: Product) {
    unsafe { with_format!(p.kind, panels::<L, _>(p)) }
}

#[inline(always)]
unsafe fn panels<L: Ints, F: Format>(p: Product) {
    for panel in 0..p.panels {
        let lanes = (p.rows - panel * LANES).min(LANES);
        let mut row = 0;
        while row < p.m {
            // SAFETY: the panel, the group of rows and their results lie inside the product.
            unsafe {
                let weights = p.weights.add(panel * p.panel_bytes);
                let x = p.x.add(row * p.blocks * WORDS);
                let out = (p.out.add(row * p.stride + panel * LANES), p.stride, lanes);
                let next = if panel + 1 < p.panels { weights.wrapping_add(p.panel_bytes) } else { p.next };
                let fetch = row == 0 && p.m <= FEW_ROWS && !next.is_null();
                row += match (p.m - row, fetch) {
                    (GROUP.., false) => tile::<L, F, GROUP, false>(weights, p.blocks, x, out, next),
                    (4.., false) => tile::<L, F, 4, false>(weights, p.blocks, x, out, next),
                    (2.., false) => tile::<L, F, 2, false>(weights, p.blocks, x, out, next),
                    (_, false) => tile::<L, F, 1, false>(weights, p.blocks, x, out, next),
                    (GROUP.., true) => tile::<L, F, GROUP, true>(weights, p.blocks, x, out, next),
                    (4.., true) => tile::<L, F, 4, true>(weights, p.blocks, x, out, next),
                    (2.., true) => tile::<L, F, 2, true>(weights, p.blocks, x, out, next),
                    (_, true) => tile::<L, F, 1, true>(weights, p.blocks, x, out, next),
                };
            }
        }
    }
}

/// One panel times one group of `R` rows; returns `R`. If `FETCH`, the panel `next` is brought into the second-level cache on
/// the way.
#[inline(always)]
pub(super) unsafe fn tile<L: Ints, F: Format, const R: usize, const FETCH: bool>(
    weights: *const u8,
    blocks: usize,
    x: *const i32,
    (out, stride, lanes): (*mut f32, usize, usize),
    next: *const u8,
) -> usize {
    // SAFETY: `blocks` blocks of numbers, then their scales; `blocks * R * WORDS` words of activations.
    unsafe {
        let scales = weights.add(blocks * F::BITS * STEP);
        let mut total = [L::splat(0.0); R];
        for b in 0..blocks {
            let numbers = weights.add(b * F::BITS * STEP);
            let x = x.add(b * R * WORDS);
            if FETCH {
                fetch_bytes(next.wrapping_add(b * F::BYTES), F::BYTES);
            }
            let (scale_x, sum_x) = (x.add(8 * R).cast::<f32>(), x.add(9 * R).cast::<f32>());
            let (minus, minus_first) = (x.add(10 * R), x.add(11 * R));
            for half in 0..F::SCALES {
                let steps = 8 / F::SCALES;
                let minus = |r: usize| match (F::SCALES, half) {
                    (1, _) => *minus.add(r),
                    (_, 0) => *minus_first.add(r),
                    _ => *minus.add(r) - *minus_first.add(r),
                };
                let mut sums = [L::sums(0); R];
                if !(F::MIN || F::BITS == 8 && L::SIGNED_8) {
                    for (r, sum) in sums.iter_mut().enumerate() {
                        *sum = L::sums(minus(r) << F::BIAS_POWER);
                    }
                }
                for j in half * steps..(half + 1) * steps {
                    let w = step::<L, F>(numbers, j);
                    for (r, sum) in sums.iter_mut().enumerate() {
                        let x = *x.add(j * R + r);
                        *sum = if F::BITS == 8 { L::dot8(*sum, w, x) } else { L::dot(*sum, w, x) };
                    }
                }
                let (scale, min) = scale_of::<L, F>(scales, b, half);
                for (r, (total, sum)) in total.iter_mut().zip(sums).enumerate() {
                    *total = total.fma(L::float(sum), scale.mul(L::splat(*scale_x.add(r))));
                    if F::MIN {
                        let sum = match F::SCALES {
                            1 => *sum_x.add(r),
                            _ => -(minus(r) as f32) * *scale_x.add(r),
                        };
                        *total = total.fma(min, L::splat(sum));
                    }
                }
            }
        }
        for (r, total) in total.into_iter().enumerate() {
            let out = out.add(r * stride);
            if lanes == LANES { total.store(out) } else { total.store_first(out, lanes) }
        }
    }
    R
}

/// Step `j` of a block: the numbers of 16 rows and 4 columns (see [`super::planes`]).
#[inline(always)]
pub(super) unsafe fn step<L: Ints, F: Format>(numbers: *const u8, j: usize) -> L::Bytes {
    // SAFETY: part `i` of the planes, all inside the block.
    unsafe {
        let part = |i: usize| L::bytes(numbers.add(i * STEP));
        if F::BITS == 8 {
            return part(j);
        }
        let j_u32 = j as u32;
        if F::BITS == 2 || F::BITS == 3 {
            let low = L::right(part(j / 4), j_u32 % 4 * 2, 3);
            return if F::BITS == 2 { low } else { L::or(low, bit::<L>(part(2), j_u32, 2)) };
        }
        let low = L::right(part(j % 4), j_u32 / 4 * 4, 15);
        match F::BITS {
            5 => L::or(low, bit::<L>(part(4), j_u32, 4)),
            6 => {
                let (high, from) = (part(4 + j / 4), j_u32 % 4 * 2);
                L::or(low, if from <= 4 { L::left(high, 4 - from, 48) } else { L::right(high, from - 4, 48) })
            }
            _ => low,
        }
    }
}

/// Bit `from` of every byte, moved to bit `to`.
#[inline(always)]
unsafe fn bit<L: Ints>(bytes: L::Bytes, from: u32, to: u32) -> L::Bytes {
    let mask = 1 << to;
    unsafe { if from <= to { L::left(bytes, to - from, mask) } else { L::right(bytes, from - to, mask) } }
}

/// Scales and minima of 16 rows.
#[inline(always)]
pub(super) unsafe fn scale_of<L: Ints, F: Format>(scales: *const u8, b: usize, half: usize) -> (L, L) {
    let kinds = 1 + F::MIN as usize;
    let head = 2 * LANES * kinds;
    // SAFETY: the record of block b, see [`super::planes::Shape::record`].
    unsafe {
        let zero = L::splat(0.0);
        if !F::TWO_LEVELS {
            let record = scales.add(b * head);
            let min = if F::MIN { L::load_f16(record.add(2 * LANES).cast()) } else { zero };
            return (L::load_f16(record.cast()), min);
        }
        let factors = LANES * F::SCALES * kinds;
        let record = scales.add(b / SUPER * (head + SUPER * factors));
        let factor = record.add(head + b % SUPER * factors + half * LANES);
        let scale = L::load_f16(record.cast()).mul(L::load_i8(factor.cast()));
        if !F::MIN {
            return (scale, zero);
        }
        let min = L::load_f16(record.add(2 * LANES).cast());
        (scale, min.mul(L::load_i8(factor.add(F::SCALES * LANES).cast())))
    }
}

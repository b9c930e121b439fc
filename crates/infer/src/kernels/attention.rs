//! Attention of a few queries over the pages of one sequence, in stretches of the past (arXiv 2205.14135, 2311.01282).
//!
//! A stretch is [`STRETCH`] positions that begin at a multiple of it. What a query takes from a stretch does not
//! depend on other stretches or queries, and stretches are put together in order; so the bits are the same whether
//! one thread goes through the whole past, or many share it, and whatever other queries go along.

use super::ints::Ints;
use super::lanes::LANES;
use super::{Isa, dispatch};
use crate::prefetch::fetch;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use serde::{Deserialize, Serialize};

/// Pages of a stretch.
pub(crate) const STRETCH_PAGES: usize = 16;
/// Positions of a stretch.
pub(crate) const STRETCH: usize = STRETCH_PAGES * LANES;

/// Queries of a task up to which its pages are fetched ahead.
const FEW_QUERIES: usize = 16;

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kept {
    F32,
    F16,
    Q8,
}

/// Sizes of the keys and values of one page, layer and head: keys [head_dim, LANES], one dimension of all positions
/// side by side; then values [LANES, value_stride]; for `Q8` then the scales of the keys and of the values, `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageShape {
    pub kept: Kept,
    pub head_dim: usize,
}

impl PageShape {
    /// Numbers of one value row: `head_dim` rounded up to whole lanes.
    pub(crate) fn value_stride(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }
    fn number(self) -> usize {
        match self.kept {
            Kept::F32 => 4,
            Kept::F16 => 2,
            Kept::Q8 => 1,
        }
    }
    fn values_at(self) -> usize {
        self.head_dim * LANES * self.number()
    }
    fn scales_at(self) -> usize {
        self.values_at() + self.value_stride() * LANES * self.number()
    }
    /// Bytes.
    pub(crate) fn bytes(self) -> usize {
        self.scales_at() + if self.kept == Kept::Q8 { 2 * LANES * 4 } else { 0 }
    }

    /// Puts key and value of one position into its page.
    pub(crate) fn put(self, page: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
        let (stride, values_at, scales_at) = (self.value_stride(), self.values_at(), self.scales_at());
        match self.kept {
            Kept::F32 => {
                let mut put = |at: usize, x: f32| page[at..at + 4].copy_from_slice(&x.to_ne_bytes());
                key.iter().enumerate().for_each(|(d, k)| put((d * LANES + slot) * 4, *k));
                value.iter().enumerate().for_each(|(d, v)| put(values_at + (slot * stride + d) * 4, *v));
            }
            Kept::F16 => {
                let mut halves = [0; HALVES];
                for (part, key) in key.chunks(HALVES).enumerate() {
                    for (d, half) in to_halves(key, &mut halves).iter().enumerate() {
                        let at = ((part * HALVES + d) * LANES + slot) * 2;
                        page[at..at + 2].copy_from_slice(&half.to_ne_bytes());
                    }
                }
                for (part, value) in value.chunks(HALVES).enumerate() {
                    let to = &mut page[values_at + (slot * stride + part * HALVES) * 2..];
                    for (to, half) in to.chunks_exact_mut(2).zip(to_halves(value, &mut halves)) {
                        to.copy_from_slice(&half.to_ne_bytes());
                    }
                }
            }
            Kept::Q8 => {
                let scale = |row: &[f32]| row.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
                let number =
                    |x: f32, scale: f32| if scale > 0.0 { (x / scale).round() as i8 as u8 } else { 0 };
                let (key_scale, value_scale) = (scale(key), scale(value));
                for (d, k) in key.iter().enumerate() {
                    page[d * LANES + slot] = number(*k, key_scale);
                }
                for (d, v) in value.iter().enumerate() {
                    page[values_at + slot * stride + d] = number(*v, value_scale);
                }
                for (at, scale) in [(slot, key_scale), (LANES + slot, value_scale)] {
                    page[scales_at + at * 4..][..4].copy_from_slice(&scale.to_ne_bytes());
                }
            }
        }
    }
}

/// Numbers that are made halves at once.
const HALVES: usize = 64;

/// At most [`HALVES`] floats as halves.
fn to_halves<'h>(floats: &[f32], halves: &'h mut [u16; HALVES]) -> &'h [u16] {
    let mut inside = [0.0; HALVES];
    for (inside, x) in inside.iter_mut().zip(floats) {
        // Beyond the largest half there is only infinity, which would spoil the positions beside it.
        *inside = x.clamp(-65_504.0, 65_504.0);
    }
    let halves = &mut halves[..floats.len()];
    halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(&inside[..floats.len()]);
    halves
}

/// `queries` of one key/value head against one stretch of one sequence.
#[derive(Clone, Copy)]
pub(crate) struct AttentionTask<'a> {
    /// Query vectors of `head_dim` floats each.
    pub queries: &'a [&'a [f32]],
    /// How many positions of the stretch each query sees, from its first; 0 if none.
    pub visible: &'a [usize],
    /// Keys and values of this head, page by page of the stretch.
    pub pages: &'a [&'a [u8]],
    pub shape: PageShape,
    /// Usually 1 / sqrt(head_dim).
    pub scale: f32,
}

/// What a query has taken from the past so far: the largest score, the sum of `e^(score - largest)`, and the sum of
/// the values weighted with it.
#[derive(Clone, Copy)]
pub(crate) struct Taken {
    pub largest: f32,
    pub total: f32,
}

impl Taken {
    pub(crate) const NOTHING: Taken = Taken { largest: f32::NEG_INFINITY, total: 0.0 };
}

/// Attention over one stretch: `taken[q]` and `values` [queries, value_stride] become what query `q` takes from it.
/// `scores` is scratch that grows.
pub(crate) fn attention(
    isa: Isa,
    task: AttentionTask<'_>,
    scores: &mut Vec<f32>,
    taken: &mut [Taken],
    values: &mut [f32],
) {
    let (queries, pages) = (task.queries.len(), task.pages.len());
    assert!(task.queries.iter().all(|q| q.len() == task.shape.head_dim), "queries of one length");
    assert!(task.visible.iter().all(|&v| v <= pages * LANES), "visible positions lie in the pages");
    assert!(task.pages.iter().all(|p| p.len() == task.shape.bytes()), "pages of one shape");
    let stride = task.shape.value_stride();
    assert_eq!(
        (task.visible.len(), taken.len(), values.len()),
        (queries, queries, queries * stride),
        "outputs"
    );
    scores.resize(scores.len().max(queries * pages * LANES), 0.0);
    let (scores, taken, values) = (scores.as_mut_ptr(), taken.as_mut_ptr(), values.as_mut_ptr());
    dispatch!(isa, bodies::stretch(task: AttentionTask<'_>, scores: *mut f32, taken: *mut Taken, values: *mut f32));
}

/// Adds what a query takes from the next stretch to what it has taken before.
pub(crate) fn merge(isa: Isa, so_far: &mut Taken, values: &mut [f32], next: Taken, more: &[f32]) {
    if next.total == 0.0 {
        return;
    }
    if so_far.total == 0.0 {
        *so_far = next;
        values.copy_from_slice(more);
        return;
    }
    let (n, more) = (values.len().min(more.len()), more.as_ptr());
    let values = values.as_mut_ptr();
    let so_far: *mut Taken = so_far;
    dispatch!(isa, bodies::merge(so_far: *mut Taken, values: *mut f32, next: Taken, more: *const f32, n: usize));
}

/// `out = values / total`.
pub(crate) fn finish(taken: Taken, values: &[f32], out: &mut [f32]) {
    let inverse = 1.0 / taken.total;
    out.iter_mut().zip(values).for_each(|(out, v)| *out = v * inverse);
}

mod bodies {
    use super::*;

    /// How keys and values are read.
    pub(super) trait Kind {
        type Number;
        /// Numbers have scales of their own.
        const SCALED: bool = false;
        unsafe fn load<L: Ints>(from: *const Self::Number) -> L;
    }
    struct F32;
    struct F16;
    struct Q8;
    impl Kind for F32 {
        type Number = f32;
        #[inline(always)]
        unsafe fn load<L: Ints>(from: *const f32) -> L {
            unsafe { L::load(from) }
        }
    }
    impl Kind for F16 {
        type Number = u16;
        #[inline(always)]
        unsafe fn load<L: Ints>(from: *const u16) -> L {
            unsafe { L::load_f16(from) }
        }
    }
    impl Kind for Q8 {
        type Number = i8;
        const SCALED: bool = true;
        #[inline(always)]
        unsafe fn load<L: Ints>(from: *const i8) -> L {
            unsafe { L::load_i8(from) }
        }
    }

    /// # Safety
    /// The shapes are those that [`super::attention`] checks; the processor has the features of `L`.
    #[inline(always)]
    pub(super) unsafe fn stretch<L: Ints>(
        task: AttentionTask<'_>,
        scores: *mut f32,
        taken: *mut Taken,
        values: *mut f32,
    ) {
        unsafe {
            match task.shape.kept {
                Kept::F32 => queries::<L, F32>(&task, scores, taken, values),
                Kept::F16 => queries::<L, F16>(&task, scores, taken, values),
                Kept::Q8 => queries::<L, Q8>(&task, scores, taken, values),
            }
        }
    }

    #[inline(always)]
    unsafe fn queries<L: Ints, K: Kind>(
        task: &AttentionTask<'_>,
        scores: *mut f32,
        taken: *mut Taken,
        values: *mut f32,
    ) {
        let (count, stride) = (task.queries.len(), task.shape.value_stride());
        let mut q = 0;
        while q < count {
            // SAFETY: queries q..q + 1..=4 and their stretches of the outputs.
            unsafe {
                let scores = scores.add(q * task.pages.len() * LANES);
                let (taken, values) = (taken.add(q), values.add(q * stride));
                q += match count - q {
                    4.. => together::<L, K, 4>(task, q, scores, taken, values),
                    3 => together::<L, K, 3>(task, q, scores, taken, values),
                    2 => together::<L, K, 2>(task, q, scores, taken, values),
                    _ => together::<L, K, 1>(task, q, scores, taken, values),
                };
            }
        }
    }

    /// `Q` queries that share what is loaded; returns `Q`.
    #[inline(always)]
    unsafe fn together<L: Ints, K: Kind, const Q: usize>(
        task: &AttentionTask<'_>,
        q: usize,
        scores: *mut f32,
        taken: *mut Taken,
        values: *mut f32,
    ) -> usize {
        let visible = &task.visible[q..q + Q];
        let longest = visible.iter().copied().max().unwrap_or(0);
        let (pages, row) = (longest.div_ceil(LANES), task.pages.len() * LANES);
        let stride = task.shape.value_stride();
        // SAFETY: `pages` pages of the task; each query has its own row of scores and values.
        unsafe {
            let mut p = 0;
            while p < pages {
                let at = scores.add(p * LANES);
                p += match pages - p {
                    2.. => score_tile::<L, K, Q, 2>(task, q, p, at, row),
                    _ => score_tile::<L, K, Q, 1>(task, q, p, at, row),
                };
            }
            for (i, &visible) in visible.iter().enumerate() {
                *taken.add(i) = exponentials::<L>(scores.add(i * row), visible, pages * LANES);
            }
            let mut d = 0;
            while d < stride {
                d += LANES
                    * match stride - d {
                        64.. => weighted::<L, K, Q, 4>(task, scores, (row, pages), d, values),
                        _ => weighted::<L, K, Q, 1>(task, scores, (row, pages), d, values),
                    };
            }
        }
        Q
    }

    #[inline(always)]
    unsafe fn score_tile<L: Ints, K: Kind, const Q: usize, const P: usize>(
        task: &AttentionTask<'_>,
        q: usize,
        p: usize,
        scores: *mut f32,
        row: usize,
    ) -> usize {
        // SAFETY: a page holds head_dim rows of LANES keys, a query head_dim floats.
        unsafe {
            let page: [*const u8; P] = std::array::from_fn(|j| task.pages.get_unchecked(p + j).as_ptr());
            let query: [*const f32; Q] = std::array::from_fn(|i| task.queries.get_unchecked(q + i).as_ptr());
            let mut acc = [[L::splat(0.0); P]; Q];
            // Few queries wait for memory: while they meet the keys, the values and the next keys are on their way.
            let line = LANES * size_of::<K::Number>();
            let ahead = q == 0 && task.queries.len() <= FEW_QUERIES;
            let next: [*const u8; P] = std::array::from_fn(|j| {
                task.pages.get_unchecked((p + P + j).min(task.pages.len() - 1)).as_ptr()
            });
            for d in 0..task.shape.head_dim {
                if ahead {
                    for (page, next) in page.iter().zip(next) {
                        fetch(page.wrapping_add(task.shape.values_at() + d * line));
                        fetch(next.wrapping_add(d * line));
                    }
                }
                let mut keys = [L::splat(0.0); P];
                for (key, page) in keys.iter_mut().zip(page) {
                    *key = K::load::<L>(page.cast::<K::Number>().add(d * LANES));
                }
                for (row, query) in acc.iter_mut().zip(query) {
                    let query = L::splat(*query.add(d));
                    for (a, key) in row.iter_mut().zip(keys) {
                        *a = a.fma(query, key);
                    }
                }
            }
            for (j, page) in page.into_iter().enumerate() {
                let mut scale = L::splat(task.scale);
                if K::SCALED {
                    scale = scale.mul(L::load(page.add(task.shape.scales_at()).cast()));
                }
                for (i, acc) in acc.iter().enumerate() {
                    acc[j].mul(scale).store(scores.add(i * row + j * LANES));
                }
            }
        }
        P
    }

    /// Replaces the first `n` scores by `e^(score - largest)` and those after them, up to `all`, by zeros.
    #[inline(always)]
    unsafe fn exponentials<L: Ints>(scores: *mut f32, n: usize, all: usize) -> Taken {
        // SAFETY: the row holds `all >= n` floats, whole LANES.
        unsafe {
            let whole = n / LANES * LANES;
            let rest = n - whole;
            let mut top = L::splat(f32::NEG_INFINITY);
            for p in (0..whole).step_by(LANES) {
                top = top.max(L::load(scores.add(p)));
            }
            let mut largest = top.largest();
            for p in whole..n {
                largest = largest.max(*scores.add(p));
            }
            for p in n..all {
                *scores.add(p) = 0.0;
            }
            let shift = L::splat(-largest);
            let mut sum = L::splat(0.0);
            for p in (0..whole).step_by(LANES) {
                let e = L::load(scores.add(p)).add(shift).exp();
                sum = sum.add(e);
                e.store(scores.add(p));
            }
            if rest > 0 {
                L::load(scores.add(whole)).add(shift).exp().store_first(scores.add(whole), rest);
                sum = sum.add(L::load_first(scores.add(whole), rest));
            }
            Taken { largest, total: sum.sum() }
        }
    }

    /// Dimensions `d..d + C * LANES` of the weighted values of `Q` queries; returns `C`. A position that a query does
    /// not see has weight 0 and changes nothing.
    #[inline(always)]
    unsafe fn weighted<L: Ints, K: Kind, const Q: usize, const C: usize>(
        task: &AttentionTask<'_>,
        weights: *const f32,
        (row, pages): (usize, usize),
        d: usize,
        values: *mut f32,
    ) -> usize {
        let stride = task.shape.value_stride();
        // SAFETY: columns d..d + C * LANES lie in the stride, all positions in the pages.
        unsafe {
            let mut acc = [[L::splat(0.0); C]; Q];
            for p in 0..pages {
                let page = task.pages.get_unchecked(p).as_ptr();
                let from = page.add(task.shape.values_at()).cast::<K::Number>().add(d);
                let scales = page.add(task.shape.scales_at()).cast::<f32>().wrapping_add(LANES);
                for i in 0..LANES {
                    let mut v = [L::splat(0.0); C];
                    for (c, v) in v.iter_mut().enumerate() {
                        *v = K::load::<L>(from.add(i * stride + c * LANES));
                    }
                    for (q, acc) in acc.iter_mut().enumerate() {
                        let mut weight = *weights.add(q * row + p * LANES + i);
                        if K::SCALED {
                            weight *= scales.add(i).read_unaligned();
                        }
                        for (a, v) in acc.iter_mut().zip(v) {
                            *a = a.fma(L::splat(weight), v);
                        }
                    }
                }
            }
            for (q, acc) in acc.iter().enumerate() {
                for (c, a) in acc.iter().enumerate() {
                    a.store(values.add(q * stride + d + c * LANES));
                }
            }
        }
        C
    }

    /// # Safety
    /// Both rows have `n` floats, whole LANES.
    #[inline(always)]
    pub(super) unsafe fn merge<L: Ints>(
        so_far: *mut Taken,
        values: *mut f32,
        next: Taken,
        more: *const f32,
        n: usize,
    ) {
        unsafe {
            let before = *so_far;
            let largest = before.largest.max(next.largest);
            let (a, b) = (L::splat(before.largest - largest).exp(), L::splat(next.largest - largest).exp());
            let total = L::splat(before.total).mul(a).fma(L::splat(next.total), b).largest();
            *so_far = Taken { largest, total };
            for d in (0..n).step_by(LANES) {
                let old = L::load(values.add(d)).mul(a);
                old.fma(L::load(more.add(d)), b).store(values.add(d));
            }
        }
    }
}

//! Row kernels whose results do not depend on the batch: matrix product, norm, gate, attention over pages.
//!
//! [`Isa`] chooses the instruction set once, at run time; all of them give the same bits.

mod bodies;
mod lanes;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use bodies::AttentionTask;
pub(crate) use lanes::LANES;
use lanes::Portable;
use rayon::prelude::*;
use std::sync::OnceLock;

/// Instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this machine can run, the best last.
    pub(crate) fn available() -> Vec<Isa> {
        #[allow(unused_mut)]
        let mut all = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Isa::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    all.push(Isa::Avx512);
                }
            }
        }
        all
    }

    /// The best of this machine.
    pub(crate) fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().pop().unwrap_or(Isa::Portable))
    }
}

/// Runs a generic body under the features of an [`Isa`].
macro_rules! dispatch {
    ($isa:expr, $body:ident ( $($arg:ident : $ty:ty),* )) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512($($arg: $ty),*) {
            unsafe { bodies::$body::<x86::Avx512>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2($($arg: $ty),*) {
            unsafe { bodies::$body::<x86::Avx2>($($arg),*) }
        }
        // SAFETY: an `Isa` other than `Portable` comes only from `available`, which checked the features; the
        // shapes were checked by the caller of this macro.
        unsafe {
            match $isa {
                Isa::Portable => bodies::$body::<Portable>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512($($arg),*),
            }
        }
    }};
}

/// Multiplications below which a product is not worth sharing between threads.
const PARALLEL_WORK: usize = 1 << 17;
/// Columns of one parallel unit of work; fixed, so that threads do not shape the work.
const COLUMN_BLOCK: usize = 32;

/// An output that threads write in disjoint places.
#[derive(Clone, Copy)]
struct SharedOut(*mut f32);
// SAFETY: every use writes column or row ranges that no other thread touches.
unsafe impl Send for SharedOut {}
unsafe impl Sync for SharedOut {}

impl SharedOut {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// `out[m, n] = x[m, k] w[n, k]^T`. Row `i` of `out` has the same bits for every `m`.
pub(crate) fn linear(isa: Isa, x: &[f32], w: &[f32], k: usize, out: &mut [f32]) {
    let (m, n) = (x.len() / k, w.len() / k);
    assert_eq!((x.len(), w.len(), out.len()), (m * k, n * k, m * n), "shapes of a matrix product");
    if m == 0 {
        return;
    }
    let target = SharedOut(out.as_mut_ptr());
    let block = |columns: std::ops::Range<usize>| {
        let w = w[columns.start * k..columns.end * k].as_ptr();
        let (x, out, shape, stride) = (x.as_ptr(), target.at(columns.start), (m, columns.len(), k), n);
        dispatch!(isa, linear(x: *const f32, w: *const f32, shape: (usize, usize, usize), out: *mut f32, stride: usize));
    };
    if m * n * k < PARALLEL_WORK {
        block(0..n);
    } else {
        (0..n.div_ceil(COLUMN_BLOCK)).into_par_iter().for_each(|b| {
            block(b * COLUMN_BLOCK..((b + 1) * COLUMN_BLOCK).min(n));
        });
    }
}

/// RMSNorm of every row of `x` [m, n] into `out` (arXiv 1910.07467).
pub(crate) fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    assert_eq!((x.len(), x.len() % n), (out.len(), 0), "shapes of a norm");
    for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
        let (x, weight, out) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
        dispatch!(isa, rms_norm(x: *const f32, weight: *const f32, n: usize, eps: f32, out: *mut f32));
    }
}

/// `out[m, f] = silu(gate) * up` where a row of `gate_up` [m, 2f] is gate then up (arXiv 2002.05202).
pub(crate) fn swiglu(isa: Isa, gate_up: &[f32], f: usize, out: &mut [f32]) {
    assert_eq!((gate_up.len(), out.len() % f), (2 * out.len(), 0), "shapes of a gate");
    let row = |(gate_up, out): (&[f32], &mut [f32])| {
        let (gate, up, out) = (gate_up.as_ptr(), gate_up[f..].as_ptr(), out.as_mut_ptr());
        dispatch!(isa, swiglu(gate: *const f32, up: *const f32, f: usize, out: *mut f32));
    };
    if out.len() < PARALLEL_WORK / 8 {
        gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)).for_each(row);
    } else {
        gate_up.par_chunks_exact(2 * f).zip(out.par_chunks_exact_mut(f)).for_each(row);
    }
}

/// Attention of a few queries over pages; `out` is [queries, value_stride], `scores` is scratch that grows.
pub(crate) fn attention(isa: Isa, task: AttentionTask<'_>, scores: &mut Vec<f32>, out: &mut [f32]) {
    let (queries, pages) = (task.queries.len(), task.keys.len());
    let head_dim = task.queries.first().map_or(0, |q| q.len());
    assert!(task.queries.iter().all(|q| q.len() == head_dim), "queries of one length");
    assert_eq!((task.visible.len(), task.values.len()), (queries, pages), "one value page per key page");
    assert!(task.visible.iter().all(|&v| v >= 1 && v <= pages * LANES), "visible positions lie in the pages");
    assert!(task.keys.iter().all(|k| k.len() >= head_dim * LANES), "a key page is [head_dim, {LANES}]");
    assert!(
        task.values.iter().all(|v| v.len() >= task.value_stride * LANES),
        "a value page is [{LANES}, stride]"
    );
    assert_eq!((task.value_stride % LANES, out.len()), (0, queries * task.value_stride), "output shape");
    scores.resize(scores.len().max(queries * pages * LANES), 0.0);
    let (scores, out) = (scores.as_mut_ptr(), out.as_mut_ptr());
    dispatch!(isa, attention(task: AttentionTask<'_>, scores: *mut f32, out: *mut f32));
}

#[cfg(test)]
mod tests;

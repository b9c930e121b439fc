//! Row kernels whose results do not depend on the batch: matrix product, norm, gate, attention over pages.
//!
//! [`Isa`] chooses the instruction set once, at run time; all of them give the same bits.

#[cfg(target_arch = "x86_64")]
mod amx;
mod attention;
mod bodies;
mod brain;
mod ints;
mod lanes;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
pub(crate) mod planes;
mod quant;
mod store;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod x86;
#[cfg(target_arch = "x86_64")]
mod x86_ints;

use crate::team::Team;
pub(crate) use attention::{
    AttentionTask, Kept, PageShape, STRETCH, STRETCH_PAGES, Taken, attention, finish, merge,
};
pub(crate) use brain::rounded_off;
use herd_tensor::isa;
pub(crate) use lanes::LANES;
pub(crate) use matrix::{Activations, Planes, multiply};
pub(crate) use quant::FEW_ROWS;
use std::sync::OnceLock;
pub(crate) use store::{Arena, PanelSource};

/// Instruction set of the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Plain Rust.
    Portable,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// AVX-512 as above, and tiles of bytes (AMX-INT8).
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// Arm's Advanced SIMD.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// Advanced SIMD, and its dot products of bytes.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Isa {
    /// Whether this machine has it.
    fn is_present(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => isa::Isa::Avx2.is_present() && is_x86_feature_detected!("f16c"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => isa::Isa::Avx512.is_present() && is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => Isa::Avx512.is_present() && amx::is_present(),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => true,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
        }
    }

    /// All that this machine can run, the best last.
    pub(crate) fn available() -> Vec<Isa> {
        let all = [
            Isa::Portable,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon,
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot,
        ];
        all.into_iter().filter(|isa| isa.is_present()).collect()
    }

    /// Rows of activations in the largest group that the products take at once.
    fn group(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => amx::ROWS,
            _ => quant::GROUP,
        }
    }

    /// The best of this machine, or the one that `HERD_ISA` names (`avx512` is without tiles, `neon` without dot products).
    pub(crate) fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| {
            let allowed = |isa: &Isa| match isa::active() {
                isa::Isa::Portable => *isa == Isa::Portable,
                #[cfg(target_arch = "x86_64")]
                isa::Isa::Avx2 => !matches!(isa, Isa::Avx512 | Isa::Amx),
                #[cfg(target_arch = "x86_64")]
                isa::Isa::Avx512 => *isa != Isa::Amx || std::env::var("HERD_ISA").is_err(),
                #[cfg(target_arch = "aarch64")]
                isa::Isa::Neon => *isa != Isa::NeonDot || std::env::var("HERD_ISA").is_err(),
                _ => true,
            };
            Isa::available().into_iter().rfind(allowed).unwrap_or(Isa::Portable)
        })
    }
}

/// Runs a generic body under the features of an [`Isa`]. The portable one is a function of its own as well: it is long, and
/// would be compiled with every closure that a call stands in.
macro_rules! dispatch {
    ($isa:expr, $module:ident :: $body:ident $(::<_, $kind:ty>)? ( $($arg:ident : $ty:ty),* )) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        unsafe fn avx512($($arg: $ty),*) {
            unsafe { $module::$body::<$crate::kernels::x86::Avx512 $(, $kind)?>($($arg),*) }
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn avx2($($arg: $ty),*) {
            unsafe { $module::$body::<$crate::kernels::x86::Avx2 $(, $kind)?>($($arg),*) }
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "dotprod")]
        unsafe fn neon_dot($($arg: $ty),*) {
            unsafe { $module::$body::<$crate::kernels::neon::Neon<true> $(, $kind)?>($($arg),*) }
        }
        #[inline(never)]
        unsafe fn portable($($arg: $ty),*) {
            unsafe { $module::$body::<$crate::kernels::lanes::Portable $(, $kind)?>($($arg),*) }
        }
        // SAFETY: an `Isa` other than `Portable` comes only from `available`, which checked the features; the
        // shapes were checked by the caller of this macro.
        unsafe {
            match $isa {
                Isa::Portable => portable($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => avx512($($arg),*),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => $module::$body::<$crate::kernels::neon::Neon<false> $(, $kind)?>($($arg),*),
                #[cfg(target_arch = "aarch64")]
                Isa::NeonDot => neon_dot($($arg),*),
            }
        }
    }};
}
use dispatch;

/// Columns of one parallel unit of work; fixed, so that threads do not shape the work.
const COLUMN_BLOCK: usize = 32;

/// An output that threads write in disjoint places.
pub(crate) struct SharedOut<T>(*mut T);
// SAFETY: every use writes column or row ranges that no other thread touches.
unsafe impl<T> Send for SharedOut<T> {}
unsafe impl<T> Sync for SharedOut<T> {}

impl<T: Copy> SharedOut<T> {
    pub(crate) fn new(out: &mut [T]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// `length` values from an offset.
    ///
    /// # Safety
    /// They lie inside the output, and no other thread has a part of them.
    #[allow(clippy::mut_from_ref, reason = "disjointness is the caller's promise")]
    pub(crate) unsafe fn slice(&self, offset: usize, length: usize) -> &mut [T] {
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), length) }
    }

    /// Copies values to an offset.
    ///
    /// # Safety
    /// They lie inside the output, in a place of which no other thread has a part.
    pub(crate) unsafe fn write(&self, offset: usize, values: &[T]) {
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0.add(offset), values.len()) }
    }

    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// How the floats of a weight matrix are stored.
#[derive(Clone, Copy)]
pub(crate) enum Stored<'a> {
    F32(&'a [f32]),
    F16(&'a [u16]),
    Bf16(&'a [u16]),
}

impl Stored<'_> {
    fn len(self) -> usize {
        match self {
            Stored::F32(w) => w.len(),
            Stored::F16(w) | Stored::Bf16(w) => w.len(),
        }
    }
}

/// `out[i, ..n] = x[i] w[n, k]^T` where the rows of `out` are `stride` apart. Row `i` of `out` has the same bits for
/// every number of rows.
pub(crate) fn linear(
    isa: Isa,
    team: &Team,
    x: &[f32],
    w: Stored<'_>,
    k: usize,
    out: &mut [f32],
    stride: usize,
) {
    let (m, n) = (x.len() / k, w.len() / k);
    assert_eq!((x.len(), w.len()), (m * k, n * k), "shapes of a matrix product");
    assert!(m == 0 || out.len() >= (m - 1) * stride + n && stride >= n, "output of a matrix product");
    if m == 0 {
        return;
    }
    let target = SharedOut(out.as_mut_ptr());
    team.run(n.div_ceil(COLUMN_BLOCK), |unit| {
        let first = unit * COLUMN_BLOCK;
        let shape = (m, (n - first).min(COLUMN_BLOCK), k);
        let (x, out) = (x.as_ptr(), target.at(first));
        match w {
            Stored::F32(w) => {
                let w = w[first * k..].as_ptr();
                dispatch!(isa, bodies::linear::<_, bodies::F32>(x: *const f32, w: *const f32, shape: (usize, usize, usize), out: *mut f32, stride: usize));
            }
            Stored::F16(w) => {
                let w = w[first * k..].as_ptr();
                dispatch!(isa, bodies::linear::<_, bodies::F16>(x: *const f32, w: *const u16, shape: (usize, usize, usize), out: *mut f32, stride: usize));
            }
            Stored::Bf16(w) => {
                let w = w[first * k..].as_ptr();
                dispatch!(isa, bodies::linear::<_, bodies::Bf16>(x: *const f32, w: *const u16, shape: (usize, usize, usize), out: *mut f32, stride: usize));
            }
        }
    });
}

/// As [`linear`] for weights in brain floats and activations rounded to such.
pub(crate) use brain::linear as linear_brain;

/// RMSNorm of every row of `x` [m, n] into `out` (arXiv 1910.07467).
pub(crate) fn rms_norm(isa: Isa, team: &Team, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    assert_eq!((x.len(), x.len() % n), (out.len(), 0), "shapes of a norm");
    let target = SharedOut(out.as_mut_ptr());
    team.rows(x.len() / n, n, |row| {
        let (x, weight, out) = (x[row * n..(row + 1) * n].as_ptr(), weight.as_ptr(), target.at(row * n));
        dispatch!(isa, bodies::rms_norm(x: *const f32, weight: *const f32, n: usize, eps: f32, out: *mut f32));
    });
}

/// `out[m, f] = silu(gate) * up` where a row of `gate_up` [m, 2f] is gate then up (arXiv 2002.05202).
pub(crate) fn swiglu(isa: Isa, team: &Team, gate_up: &[f32], f: usize, out: &mut [f32]) {
    assert_eq!((gate_up.len(), out.len() % f), (2 * out.len(), 0), "shapes of a gate");
    let target = SharedOut(out.as_mut_ptr());
    team.rows(out.len() / f, 4 * f, |row| {
        let gate_up = &gate_up[2 * row * f..2 * (row + 1) * f];
        let (gate, up, out) = (gate_up.as_ptr(), gate_up[f..].as_ptr(), target.at(row * f));
        dispatch!(isa, bodies::swiglu(gate: *const f32, up: *const f32, f: usize, out: *mut f32));
    });
}

#[cfg(test)]
mod tests;

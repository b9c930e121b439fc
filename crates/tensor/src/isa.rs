//! Which instruction set the kernels use: the best one of this machine, or the one that `HERD_ISA` asks for.
//!
//! Results are the same bits for any number of threads on one instruction set; between instruction sets they differ
//! by rounding.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that has its own compiled kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Isa {
    /// What every machine of the target architecture has.
    Portable = 1,
    /// AVX2 and FMA.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512 = 3,
    /// Arm's Advanced SIMD.
    Neon = 4,
}

/// All of them, each better than those before it where both exist.
pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Neon];

static ACTIVE: AtomicU8 = AtomicU8::new(0);

impl Isa {
    /// Whether this machine has it.
    pub fn is_present(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.is_present()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }
}

/// The best instruction set of this machine.
pub fn best() -> Isa {
    ALL.into_iter().rfind(|isa| isa.is_present()).unwrap_or(Isa::Portable)
}

/// The instruction set in use: [`best`], or another one named by `HERD_ISA` (`portable`, `avx2`, `avx512`, `neon`)
/// when the process started.
pub fn active() -> Isa {
    let set = ACTIVE.load(Ordering::Relaxed);
    ALL.into_iter().find(|isa| *isa as u8 == set).unwrap_or_else(|| {
        match std::env::var("HERD_ISA").as_deref() {
            Ok("portable") => force(Isa::Portable),
            Ok("avx2") => force(Isa::Avx2),
            Ok("avx512") => force(Isa::Avx512),
            _ => force(best()),
        }
    })
}

/// Uses `isa` from now on in the whole process, or the best one if this machine lacks it; returns what was set. For
/// tests and benchmarks.
pub fn force(isa: Isa) -> Isa {
    let set = if isa.is_present() { isa } else { best() };
    ACTIVE.store(set as u8, Ordering::Relaxed);
    set
}

/// Whether portable code may fuse multiply and add without calling a library function.
pub(crate) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64");

/// Compiles a generic body once per instruction set and calls the one in use. The body is an `#[inline(always)]`
/// function with a `const FMA: bool` parameter, and a type parameter after it where the function has one.
macro_rules! by_isa {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$t:ident: $bound:path>)? => $body:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?
    ) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx512 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? { $body::<true $(, $t)?>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn avx2 $(<$t: $bound>)? ($($arg: $ty),*) $(-> $ret)? { $body::<true $(, $t)?>($($arg),*) }
                match $crate::isa::active() {
                    // SAFETY: `active` is never above what this machine has.
                    $crate::isa::Isa::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::isa::Isa::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::isa::Isa::Portable | $crate::isa::Isa::Neon => {}
                }
            }
            $body::<{ $crate::isa::PORTABLE_FMA } $(, $t)?>($($arg),*)
        }
    };
}
pub(crate) use by_isa;

//! Sixteen floats at once, the unit of every kernel here, with a portable form.
//!
//! All forms compute the same bits: each operation is one IEEE operation per lane (`fma` rounds once), the sum of
//! the lanes is one fixed tree, and `exp` is one fixed polynomial. So an answer depends neither on the batch nor on
//! which instruction set the machine has.

/// Floats in one [`Lanes`] value.
pub(crate) const LANES: usize = 16;

/// Sixteen `f32`. The functions are `unsafe` because a form may need processor features that the caller must have
/// checked (see [`super::Isa`]), and because loads and stores take raw pointers.
pub(crate) trait Lanes: Copy {
    /// Rows of `x` and of `w` in one register tile of the matrix product.
    const TILE: (usize, usize);
    unsafe fn splat(value: f32) -> Self;
    /// Reads 16 floats.
    unsafe fn load(from: *const f32) -> Self;
    /// Reads the first `count < 16` floats, the rest are zero.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;
    unsafe fn store(self, to: *mut f32);
    unsafe fn store_first(self, to: *mut f32, count: usize);
    unsafe fn add(self, other: Self) -> Self;
    unsafe fn mul(self, other: Self) -> Self;
    unsafe fn div(self, other: Self) -> Self;
    unsafe fn max(self, other: Self) -> Self;
    unsafe fn min(self, other: Self) -> Self;
    /// `self + a * b`, rounded once.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// Nearest whole number, ties to even.
    unsafe fn round(self) -> Self;
    /// `self * 2^power` for whole `power` in -126..=127, through the exponent bits.
    unsafe fn scale(self, power: Self) -> Self;
    /// Sum of the lanes: halves added until one is left, (i, i+8), (i, i+4), (i, i+2), (0, 1).
    unsafe fn sum(self) -> f32;
    /// Largest lane.
    unsafe fn largest(self) -> f32;

    /// e^x within 2 units in the last place for x in -87..=88; clamped outside (the low end gives about 1e-38).
    #[inline(always)]
    unsafe fn exp(self) -> Self {
        unsafe {
            let x = self.max(Self::splat(-87.0)).min(Self::splat(88.0));
            let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).round();
            // ln 2 in two parts, so that the remainder is exact.
            let r = x.fma(n, Self::splat(-0.693_359_4)).fma(n, Self::splat(2.121_944_4e-4));
            // Minimax polynomial of e^r on |r| <= ln(2)/2 (Cephes expf).
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_6e-1, 0.5] {
                p = Self::splat(c).fma(p, r);
            }
            let p = r.fma(p.mul(r), r).add(Self::splat(1.0));
            p.scale(n)
        }
    }
}

/// The form for processors without a hand-written one, and the reference that the others are tested against.
#[derive(Clone, Copy)]
pub(crate) struct Portable(pub(super) [f32; LANES]);

impl Portable {
    #[inline(always)]
    fn map2(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self;
        for (a, b) in out.0.iter_mut().zip(other.0) {
            *a = f(*a, b);
        }
        out
    }
}

impl Lanes for Portable {
    const TILE: (usize, usize) = (2, 2);
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives 16 readable floats.
        Self(unsafe { from.cast::<[f32; LANES]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut out = [0.0; LANES];
        // SAFETY: the caller gives `count` readable floats.
        unsafe { std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), count) };
        Self(out)
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives 16 writable floats.
        unsafe { to.cast::<[f32; LANES]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller gives `count` writable floats.
        unsafe { std::ptr::copy_nonoverlapping(self.0.as_ptr(), to, count) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.map2(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.map2(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(self, other: Self) -> Self {
        self.map2(other, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.map2(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(self, other: Self) -> Self {
        self.map2(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        let mut out = self;
        for (o, (a, b)) in out.0.iter_mut().zip(a.0.into_iter().zip(b.0)) {
            *o = a.mul_add(b, *o);
        }
        out
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        Self(self.0.map(f32::round_ties_even))
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        self.map2(power, |x, p| x * f32::from_bits(((p as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        let mut v = self.0;
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                v[i] += v[i + width];
            }
            width /= 2;
        }
        v[0]
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |a, b| if a > b { a } else { b })
    }
}

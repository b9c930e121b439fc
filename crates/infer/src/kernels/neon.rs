//! [`Lanes`] and [`Ints`] with Arm's Advanced SIMD: four registers of four.

use super::ints::Ints;
use super::lanes::{LANES, Lanes};
use std::arch::aarch64::*;

/// Sixteen floats. With `DOT` whole numbers are multiplied by dot-product instructions (FEAT_DotProd), which the caller has
/// to have enabled.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>([float32x4_t; 4]);

/// `sums[i] += a[4i..4i+4] . b[4i..4i+4]`; the standard library's `vdotq_s32` is not stable yet.
///
/// # Safety
/// The processor has dot-product instructions.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn sdot(mut sums: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: it changes no more than `sums`.
    unsafe {
        std::arch::asm!(
            "sdot {sums:v}.4s, {a:v}.16b, {b:v}.16b",
            sums = inout(vreg) sums,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

impl<const DOT: bool> Neon<DOT> {
    #[inline(always)]
    fn map(self, f: impl Fn(float32x4_t) -> float32x4_t) -> Self {
        Self([f(self.0[0]), f(self.0[1]), f(self.0[2]), f(self.0[3])])
    }
    #[inline(always)]
    fn map2(self, o: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self([f(self.0[0], o.0[0]), f(self.0[1], o.0[1]), f(self.0[2], o.0[2]), f(self.0[3], o.0[3])])
    }
}

// SAFETY of everything below: Advanced SIMD is part of the target; pointers are the caller's (trait contract).
impl<const DOT: bool> Lanes for Neon<DOT> {
    const TILE: (usize, usize) = (2, 2);
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { Self([vdupq_n_f32(value); 4]) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        unsafe {
            Self([vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))])
        }
    }
    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut out = [0.0; LANES];
        unsafe {
            std::ptr::copy_nonoverlapping(from, out.as_mut_ptr(), count);
            Self::load(out.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        for (i, v) in self.0.into_iter().enumerate() {
            unsafe { vst1q_f32(to.add(4 * i), v) }
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        let mut all = [0.0; LANES];
        unsafe {
            self.store(all.as_mut_ptr());
            std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
        }
    }
    #[inline(always)]
    unsafe fn add(self, o: Self) -> Self {
        self.map2(o, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn mul(self, o: Self) -> Self {
        self.map2(o, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn div(self, o: Self) -> Self {
        self.map2(o, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn max(self, o: Self) -> Self {
        self.map2(o, |a, b| unsafe { vmaxq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn min(self, o: Self) -> Self {
        self.map2(o, |a, b| unsafe { vminq_f32(a, b) })
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        unsafe { Self(std::array::from_fn(|i| vfmaq_f32(self.0[i], a.0[i], b.0[i]))) }
    }
    #[inline(always)]
    unsafe fn round(self) -> Self {
        self.map(|a| unsafe { vrndnq_f32(a) })
    }
    #[inline(always)]
    unsafe fn scale(self, power: Self) -> Self {
        self.map2(power, |x, p| unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(p), vdupq_n_s32(127));
            vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        })
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // Halves added until one is left, as the trait says.
        unsafe {
            let low = vaddq_f32(self.0[0], self.0[2]);
            let high = vaddq_f32(self.0[1], self.0[3]);
            let four = vaddq_f32(low, high);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(self.0[0], self.0[1]), vmaxq_f32(self.0[2], self.0[3]))) }
    }
}

impl<const DOT: bool> Ints for Neon<DOT> {
    type Sums = [int32x4_t; 4];
    type Bytes = [uint8x16_t; 4];
    const SIGNED_8: bool = true;

    #[inline(always)]
    unsafe fn sums(value: i32) -> Self::Sums {
        unsafe { [vdupq_n_s32(value); 4] }
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
            if DOT {
                return std::array::from_fn(|i| sdot(sums[i], vreinterpretq_s8_u8(bytes[i]), x));
            }
            std::array::from_fn(|i| {
                // Products of 16 bits; neighbours added twice give one sum per four bytes.
                let w = vreinterpretq_s8_u8(bytes[i]);
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
                let high = vpaddlq_s16(vmull_high_s8(w, x));
                vaddq_s32(sums[i], vpaddq_s32(low, high))
            })
        }
    }
    #[inline(always)]
    unsafe fn dot8(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        // From `weight + 128` to the signed weight.
        unsafe { Self::dot(sums, bytes.map(|b| veorq_u8(b, vdupq_n_u8(128))), x) }
    }
    #[inline(always)]
    unsafe fn float(sums: Self::Sums) -> Self {
        Self(sums.map(|s| unsafe { vcvtq_f32_s32(s) }))
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Bytes {
        unsafe { std::array::from_fn(|i| vld1q_u8(from.add(16 * i))) }
    }
    #[inline(always)]
    unsafe fn right(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let (by, mask) = (vdupq_n_s8(-(by as i8)), vdupq_n_u8(mask));
            bytes.map(|b| vandq_u8(vshlq_u8(b, by), mask))
        }
    }
    #[inline(always)]
    unsafe fn left(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let (by, mask) = (vdupq_n_s8(by as i8), vdupq_n_u8(mask));
            bytes.map(|b| vandq_u8(vshlq_u8(b, by), mask))
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        unsafe { std::array::from_fn(|i| vorrq_u8(a[i], b[i])) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        let all = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        let floats = all.map(|bits| half::f16::from_bits(bits).to_f32());
        unsafe { Self::load(floats.as_ptr()) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            Self(std::array::from_fn(|i| vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(from.add(4 * i))))))
        }
    }
    #[inline(always)]
    unsafe fn load_odd(from: *const u16) -> Self {
        unsafe {
            let pairs = |i| vreinterpretq_u32_u16(vld1q_u16(from.add(8 * i)));
            let high = vdupq_n_u32(0xffff_0000);
            Self(std::array::from_fn(|i| vreinterpretq_f32_u32(vandq_u32(pairs(i), high))))
        }
    }
    #[inline(always)]
    unsafe fn load_even(from: *const u16) -> Self {
        unsafe {
            let pairs = |i| vreinterpretq_u32_u16(vld1q_u16(from.add(8 * i)));
            Self(std::array::from_fn(|i| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs(i)))))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe {
            let all = vld1q_s8(from);
            let (low, high) = (vmovl_s8(vget_low_s8(all)), vmovl_high_s8(all));
            let wide = |v| vcvtq_f32_s32(v);
            Self([
                wide(vmovl_s16(vget_low_s16(low))),
                wide(vmovl_high_s16(low)),
                wide(vmovl_s16(vget_low_s16(high))),
                wide(vmovl_high_s16(high)),
            ])
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe {
            let whole = self.0.map(|v| vcvtnq_s32_f32(v));
            let low = vcombine_s16(vqmovn_s32(whole[0]), vqmovn_s32(whole[1]));
            let high = vcombine_s16(vqmovn_s32(whole[2]), vqmovn_s32(whole[3]));
            vst1q_s8(to, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
        }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        self.map(|a| unsafe { vabsq_f32(a) })
    }
}

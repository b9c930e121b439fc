//! [`Ints`] with AVX2 (two registers of 32 bytes) and AVX-512 VNNI (one register of 64).

use super::ints::{Ints, STEP};
use super::x86::{Avx2, Avx512};
use std::arch::x86_64::*;

/// `sums + pairs of 16 bits added up`, the second half of a product of bytes without VNNI.
#[inline(always)]
unsafe fn widen(sums: __m256i, pairs: __m256i) -> __m256i {
    unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}

/// `bytes ^ 128`: from `weight + 128` to the weight itself; its size in `0..=128`, and `x` with its sign.
#[inline(always)]
unsafe fn signed(bytes: __m256i, x: __m256i) -> (__m256i, __m256i) {
    unsafe {
        let w = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
        (_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
    }
}

// SAFETY of everything below: the caller has checked the features, and gives valid pointers (trait contract).
impl Ints for Avx2 {
    type Sums = (__m256i, __m256i);
    type Bytes = (__m256i, __m256i);
    const SIGNED_8: bool = true;

    #[inline(always)]
    unsafe fn sums(value: i32) -> Self::Sums {
        unsafe { (_mm256_set1_epi32(value), _mm256_set1_epi32(value)) }
    }
    #[inline(always)]
    unsafe fn dot(s: Self::Sums, b: Self::Bytes, x: i32) -> Self::Sums {
        // At most 2 * 63 * 127 in 16 bits: no saturation.
        unsafe {
            let x = _mm256_set1_epi32(x);
            (widen(s.0, _mm256_maddubs_epi16(b.0, x)), widen(s.1, _mm256_maddubs_epi16(b.1, x)))
        }
    }
    #[inline(always)]
    unsafe fn dot8(s: Self::Sums, b: Self::Bytes, x: i32) -> Self::Sums {
        // At most 2 * 128 * 127 in 16 bits: no saturation.
        unsafe {
            let x = _mm256_set1_epi32(x);
            let ((w0, x0), (w1, x1)) = (signed(b.0, x), signed(b.1, x));
            (widen(s.0, _mm256_maddubs_epi16(w0, x0)), widen(s.1, _mm256_maddubs_epi16(w1, x1)))
        }
    }
    #[inline(always)]
    unsafe fn float(s: Self::Sums) -> Self {
        unsafe { Self(_mm256_cvtepi32_ps(s.0), _mm256_cvtepi32_ps(s.1)) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Bytes {
        unsafe { (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(STEP / 2).cast())) }
    }
    #[inline(always)]
    unsafe fn right(b: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let (by, mask) = (_mm_cvtsi32_si128(by as i32), _mm256_set1_epi8(mask as i8));
            let one = |b| _mm256_and_si256(_mm256_srl_epi16(b, by), mask);
            (one(b.0), one(b.1))
        }
    }
    #[inline(always)]
    unsafe fn left(b: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let (by, mask) = (_mm_cvtsi32_si128(by as i32), _mm256_set1_epi8(mask as i8));
            let one = |b| _mm256_and_si256(_mm256_sll_epi16(b, by), mask);
            (one(b.0), one(b.1))
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        unsafe { (_mm256_or_si256(a.0, b.0), _mm256_or_si256(a.1, b.1)) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        unsafe {
            let half = |at| _mm256_cvtph_ps(_mm_loadu_si128(from.add(at).cast()));
            Self(half(0), half(8))
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let half = |at| {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            };
            Self(half(0), half(8))
        }
    }
    #[inline(always)]
    unsafe fn load_odd(from: *const u16) -> Self {
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let half = |at| _mm256_and_si256(_mm256_loadu_si256(from.add(at).cast()), high);
            Self(_mm256_castsi256_ps(half(0)), _mm256_castsi256_ps(half(16)))
        }
    }
    #[inline(always)]
    unsafe fn load_even(from: *const u16) -> Self {
        unsafe {
            let half = |at| _mm256_slli_epi32::<16>(_mm256_loadu_si256(from.add(at).cast()));
            Self(_mm256_castsi256_ps(half(0)), _mm256_castsi256_ps(half(16)))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe {
            let half = |at| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(at).cast())));
            Self(half(0), half(8))
        }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe {
            let pairs = _mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1));
            // The pack works in halves of 128 bits: put the quarters in order first.
            let pairs = _mm256_permute4x64_epi64::<0b11_01_10_00>(pairs);
            let (low, high) = (_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
            _mm_storeu_si128(to.cast(), _mm_packs_epi16(low, high));
        }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            Self(_mm256_andnot_ps(sign, self.0), _mm256_andnot_ps(sign, self.1))
        }
    }
}

// SAFETY: as above.
impl Ints for Avx512 {
    type Sums = __m512i;
    type Bytes = __m512i;
    const SIGNED_8: bool = false;

    #[inline(always)]
    unsafe fn sums(value: i32) -> Self::Sums {
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn dot(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        unsafe { _mm512_dpbusd_epi32(sums, bytes, _mm512_set1_epi32(x)) }
    }
    #[inline(always)]
    unsafe fn dot8(sums: Self::Sums, bytes: Self::Bytes, x: i32) -> Self::Sums {
        unsafe { Self::dot(sums, bytes, x) }
    }
    #[inline(always)]
    unsafe fn float(sums: Self::Sums) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(sums)) }
    }
    #[inline(always)]
    unsafe fn bytes(from: *const u8) -> Self::Bytes {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }
    #[inline(always)]
    unsafe fn right(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let shifted = _mm512_srl_epi16(bytes, _mm_cvtsi32_si128(by as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
    }
    #[inline(always)]
    unsafe fn left(bytes: Self::Bytes, by: u32, mask: u8) -> Self::Bytes {
        unsafe {
            let shifted = _mm512_sll_epi16(bytes, _mm_cvtsi32_si128(by as i32));
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        }
    }
    #[inline(always)]
    unsafe fn or(a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Self {
        unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> Self {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    unsafe fn load_odd(from: *const u16) -> Self {
        unsafe {
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            Self(_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), high)))
        }
    }
    #[inline(always)]
    unsafe fn load_even(from: *const u16) -> Self {
        unsafe { Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> Self {
        unsafe { Self(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store_i8(self, to: *mut i8) {
        unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(self.0))) }
    }
    #[inline(always)]
    unsafe fn abs(self) -> Self {
        unsafe { Self(_mm512_abs_ps(self.0)) }
    }
}

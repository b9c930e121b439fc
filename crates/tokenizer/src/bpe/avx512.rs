//! [`super::batch`] with AVX-512: a key is one masked load, its hash three rounds of AES, and a line of the cache is
//! compared at once.

use super::batch::{GROUP, Group};
use super::cache::{
    COUNT_AT, Cache, ID_BITS, INLINE, KEY_BYTES, PAIRS, Pair, SPILL_READ, SPILLED, beside, spilled,
};
use std::arch::x86_64::*;

/// Whether this processor has the instructions.
pub(super) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
}

/// See [`super::batch::Instructions::make_keys`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,aes,bmi1,bmi2")]
pub(super) fn make_keys(text: &[u8], mut start: usize, ends: &[usize], group: &mut Group, cache: &Cache) {
    let Group { keys, places, long, long_count, .. } = group;
    let mut longs = 0;
    let pairs = cache.pairs().as_ptr();
    let ones = _mm256_set1_epi8(-1);
    let rounds = [
        _mm_set_epi64x(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344),
        _mm_set_epi64x(0x4528_21e6_38d0_1377_u64 as i64, 0x3f84_d5b5_b547_0917),
    ];
    for (number, ((&end, key), place)) in ends.iter().zip(keys).zip(places).enumerate() {
        let length = end - start;
        long[longs % GROUP] = number as u8;
        longs += usize::from(length > KEY_BYTES);
        assert!(end <= text.len());
        let bytes = if length <= KEY_BYTES { _bzhi_u32(u32::MAX, length as u32) } else { 0 };
        // SAFETY: only the bytes of the piece are read, and they are in the text.
        let piece = unsafe { _mm256_mask_loadu_epi8(ones, bytes, text.as_ptr().add(start).cast()) };
        // SAFETY: a key is as large and as aligned as the register.
        unsafe { _mm256_store_si256((&raw mut *key).cast(), piece) };
        let mut hash = _mm_aesenc_si128(_mm256_castsi256_si128(piece), _mm256_extracti128_si256::<1>(piece));
        for round in rounds {
            hash = _mm_aesenc_si128(hash, round);
        }
        *place = _mm_cvtsi128_si32(hash) as u32 % PAIRS as u32;
        // SAFETY: fetching in advance reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(pairs.add(*place as usize).cast()) };
        start = end;
    }
    *long_count = longs;
}

/// Bit 3 if the first slot of a pair has a key, bit 7 if the second has it.
#[target_feature(enable = "avx512f")]
#[inline]
fn slot_of(key: __m256i, pair: &Pair) -> u32 {
    // SAFETY: a pair is as large as the register.
    let slots = unsafe { _mm512_load_si512((&raw const *pair).cast()) };
    // Three numbers of each slot are its key; where all of them are equal, the sum carries.
    let equal = _mm512_mask_cmpeq_epi64_mask(0x77, _mm512_broadcast_i64x4(key), slots);
    (u32::from(equal) + 0x11) & 0x88
}

/// See [`super::batch::Instructions::copy_known`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,aes,bmi1,bmi2")]
pub(super) fn copy_known(
    group: &Group,
    from: usize,
    count: usize,
    cache: &Cache,
    out: &mut Vec<u32>,
) -> usize {
    let pairs = cache.pairs();
    out.reserve((count - from) * INLINE + SPILL_READ);
    let mut filled = out.len();
    let mut to = out.as_mut_ptr();
    let mut number = from;
    for (key, &place) in group.keys[from..count].iter().zip(&group.places[from..count]) {
        let place = place % PAIRS as u32;
        let mut pair = &pairs[place as usize];
        // SAFETY: a key is as large as the register.
        let key = unsafe { _mm256_load_si256((&raw const *key).cast()) };
        let mut slot = slot_of(key, pair);
        if slot == 0 {
            pair = &pairs[beside(place) as usize];
            slot = slot_of(key, pair);
            if slot == 0 {
                break;
            }
        }
        let found = pair.0[(slot >> 7) as usize & 1].found;
        // Neither nothing nor spilled.
        if found as i64 > 0 {
            const TWO: u64 = ((1 << ID_BITS) - 1) | (((1 << ID_BITS) - 1) << 32);
            // All places are written, whatever their number: a branch on it would be mispredicted.
            // SAFETY: room for three tokens of each piece was made, and no more than they are written before.
            unsafe {
                to.add(filled).cast::<u64>().write_unaligned(_pdep_u64(found, TWO));
                to.add(filled + 2).write((found >> (2 * ID_BITS)) as u32 % (1 << ID_BITS));
            }
            filled += (found >> COUNT_AT) as usize;
        } else if found & SPILLED != 0 {
            let (at, length) = spilled(found);
            let tokens = &cache.spill()[at..at + length.max(SPILL_READ)];
            if out.capacity() < filled + (count - number) * INLINE + tokens.len() {
                // SAFETY: this many are written.
                unsafe { out.set_len(filled) };
                out.reserve((count - number) * INLINE + tokens.len());
                to = out.as_mut_ptr();
            }
            // SAFETY: the room is there, and what is copied stands elsewhere.
            unsafe { to.add(filled).copy_from_nonoverlapping(tokens.as_ptr(), tokens.len()) };
            filled += length;
        } else {
            break;
        }
        number += 1;
    }
    // SAFETY: this many are written.
    unsafe { out.set_len(filled) };
    number
}

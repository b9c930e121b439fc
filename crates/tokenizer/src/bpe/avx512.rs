//! [`super::batch`] with AVX-512: a key is one masked load, its hash three rounds of AES, and a line of the cache is
//! compared at once.

use super::batch::{GROUP, Group, Hashed, Row, told_apart};
use super::cache::{
    COUNT_AT, Cache, HASHED_BYTES, HASHED_PAIRS, ID_BITS, INLINE, KEY_BYTES, Key, PAIRS, Pair, SPILL_READ,
    SPILLED, beside, fours, is_hashed, spilled,
};
use super::long_pieces::fetch;
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

/// What the last rounds of a hash add.
#[target_feature(enable = "avx512f")]
#[inline]
fn round_keys() -> [__m128i; 2] {
    [
        _mm_set_epi64x(0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344),
        _mm_set_epi64x(0x4528_21e6_38d0_1377_u64 as i64, 0x3f84_d5b5_b547_0917),
    ]
}

/// See [`super::batch::Instructions::make_keys`]; `CHANGE` is 0 or [`PART`](super::batch::PART).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,aes,bmi1,bmi2")]
pub(super) fn make_keys<const CHANGE: u64>(row: Row, group: &mut Group, cache: &Cache) {
    // What is known of long pieces is fetched in two steps: time passes between them.
    let count = hash_long(row, group, cache);
    let Row { text, mut start, ends, .. } = row;
    let Group { keys, places, hashed, .. } = group;
    let pairs = cache.pairs().as_ptr();
    let ones = _mm256_set1_epi8(-1);
    let rounds = round_keys();
    for ((&end, key), place) in ends.iter().zip(&mut *keys).zip(&mut *places) {
        let length = end - start;
        assert!(end <= text.len());
        let bytes = if length <= KEY_BYTES { _bzhi_u32(u32::MAX, length as u32) } else { 0 };
        // SAFETY: only the bytes of the piece are read, and they are in the text.
        let mut piece = unsafe { _mm256_mask_loadu_epi8(ones, bytes, text.as_ptr().add(start).cast()) };
        if CHANGE != 0 && told_apart(length) {
            piece = _mm256_xor_si256(piece, _mm256_set_epi64x(0, CHANGE as i64, 0, 0));
        }
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
    for &Hashed { number, place, key } in &hashed[..count] {
        let number = usize::from(number);
        (keys[number], places[number]) = (key, place);
        let pair = &cache.pairs()[place as usize];
        // SAFETY: a key is as large and as aligned as the register.
        let slot = slot_of(unsafe { _mm256_load_si256((&raw const key).cast()) }, pair);
        let (at, _) = spilled(pair.0[(slot >> 7) as usize & 1].found);
        let tokens = cache.hashed_spill().as_ptr().wrapping_add(at);
        let bytes = tokens.wrapping_sub(fours(row.piece(number)));
        for line in 0..HASHED_BYTES / 64 {
            fetch(bytes.wrapping_add(16 * line));
        }
        fetch(tokens.wrapping_add(SPILL_READ - 1));
    }
}

/// Makes the keys of pieces that do not fit one with their bytes, if they are not too long for a hash; how many.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,aes,bmi1,bmi2")]
#[inline]
fn hash_long(row: Row, group: &mut Group, cache: &Cache) -> usize {
    let Group { long, long_count, hashed, .. } = group;
    *long_count = 0;
    let mut count = 0;
    let mut left = longer_than_keys(row);
    while left != 0 {
        let number = left.trailing_zeros() as usize;
        left &= left - 1;
        let piece = row.piece(number);
        if piece.len() > HASHED_BYTES {
            long[*long_count] = number as u8;
            *long_count += 1;
            continue;
        }
        let mut hash = fold(block(piece, 0));
        // Few have more than one block.
        if piece.len() > BLOCK {
            for number in 1..HASHED_BYTES / BLOCK {
                hash = _mm_aesenc_si128(hash, fold(block(piece, number)));
            }
        }
        for round in round_keys() {
            hash = _mm_aesenc_si128(hash, round);
        }
        let (low, high) = (_mm_cvtsi128_si64(hash) as u64, _mm_extract_epi64::<1>(hash) as u64);
        let key = Key([low, high, 0xff | (piece.len() as u64) << 8, u64::MAX]);
        let place = PAIRS as u32 + low as u32 % HASHED_PAIRS as u32;
        fetch(&raw const cache.pairs()[place as usize]);
        hashed[count % GROUP] = Hashed { number: number as u8, place, key };
        count += 1;
    }
    count
}

/// A bit for each piece of a row with more bytes than a key.
#[target_feature(enable = "avx512f,bmi1,bmi2")]
#[inline]
fn longer_than_keys(row: Row) -> u64 {
    let mut longer = 0;
    let mut before = _mm512_set1_epi64(row.start as i64);
    for (number, eight) in row.ends.chunks(8).enumerate() {
        let there = _bzhi_u32(0xff, eight.len() as u32) as u8;
        // SAFETY: only the numbers that are there are read, and `usize` has 64 bits wherever this is compiled.
        let ends = unsafe { _mm512_maskz_loadu_epi64(there, eight.as_ptr().cast()) };
        let lengths = _mm512_sub_epi64(ends, _mm512_alignr_epi64::<7>(ends, before));
        let are = _mm512_mask_cmpgt_epu64_mask(there, lengths, _mm512_set1_epi64(KEY_BYTES as i64));
        longer |= u64::from(are) << (8 * number);
        before = ends;
    }
    longer
}

/// Bytes that are hashed and compared at once.
const BLOCK: usize = 64;

/// A block of the bytes of a piece, and zeros after them.
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
#[inline]
fn block(piece: &[u8], number: usize) -> __m512i {
    let there = _bzhi_u64(u64::MAX, piece.len().saturating_sub(BLOCK * number).min(BLOCK) as u32);
    // SAFETY: only the bytes of the piece are read.
    unsafe { _mm512_maskz_loadu_epi8(there, piece.as_ptr().wrapping_add(BLOCK * number).cast()) }
}

/// Two rounds over a block.
#[target_feature(enable = "avx512f,aes")]
#[inline]
fn fold(block: __m512i) -> __m128i {
    _mm_aesenc_si128(
        _mm_aesenc_si128(_mm512_castsi512_si128(block), _mm512_extracti32x4_epi32::<1>(block)),
        _mm_aesenc_si128(_mm512_extracti32x4_epi32::<2>(block), _mm512_extracti32x4_epi32::<3>(block)),
    )
}

/// Whether the bytes before the tokens at a place of the spill are those of a piece.
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
#[inline]
fn is_at(piece: &[u8], spill: &[u32], at: usize) -> bool {
    let Some(bytes) = at.checked_sub(fours(piece)).and_then(|first| spill.get(first..at)) else {
        return false;
    };
    let known = &bytemuck::cast_slice::<_, u8>(bytes)[..piece.len()];
    let mut differ = _mm512_cmpneq_epi64_mask(block(piece, 0), block(known, 0));
    if piece.len() > BLOCK {
        for number in 1..HASHED_BYTES / BLOCK {
            differ |= _mm512_cmpneq_epi64_mask(block(piece, number), block(known, number));
        }
    }
    differ == 0
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
pub(super) fn copy_known(row: Row, group: &Group, from: usize, cache: &Cache, out: &mut Vec<u32>) -> usize {
    let (pairs, count) = (cache.pairs(), row.ends.len());
    out.reserve((count - from) * INLINE + SPILL_READ);
    let mut filled = out.len();
    let mut to = out.as_mut_ptr();
    let mut number = from;
    for (key, &place) in group.keys[from..count].iter().zip(&group.places[from..count]) {
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
            let mut spill = cache.spill();
            if is_hashed(place) {
                spill = cache.hashed_spill();
                if !is_at(row.piece(number), spill, at) {
                    break;
                }
            }
            let tokens = &spill[at..at + length.max(SPILL_READ)];
            if out.capacity() < filled + (count - number) * INLINE + tokens.len() {
                // SAFETY: this many are written.
                unsafe { out.set_len(filled) };
                out.reserve((count - number) * INLINE + tokens.len());
                to = out.as_mut_ptr();
            }
            // SAFETY: the room is there, and what is copied stands elsewhere.
            unsafe {
                to.add(filled).copy_from_nonoverlapping(tokens.as_ptr(), SPILL_READ);
                if length > SPILL_READ {
                    let (more, left) = (tokens.as_ptr().add(SPILL_READ), length - SPILL_READ);
                    to.add(filled + SPILL_READ).copy_from_nonoverlapping(more, left);
                }
            }
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

//! Near-duplicate documents (SPEC DATA-3): MinHash over word shingles, candidates by banded locality-sensitive hashing
//! and their exact Jaccard similarity. Broder 1997; bands as in Leskovec et al., "Mining of Massive
//! Data Sets", chapter 3.

use crate::filters::words;
use crate::hash;
use crate::settings::NearDuplicates;

/// Documents that agree in a band of which all pairs are compared; of more each is compared with the first and the next.
pub(crate) const FULL_COMPARISON: usize = 32;

/// The set of a text's shingles as sorted hashes. Case, punctuation and digits' values do not matter. Different
/// languages never share shingles.
pub fn shingles(text: &str, language: &str, words_each: usize) -> Vec<u64> {
    let seed = hash::of_bytes(language.as_bytes());
    let hashes: Vec<u64> = words(text).map(hash::of_word).collect();
    let mut set: Vec<u64> = match hashes.len() {
        0 => Vec::new(),
        n if n < words_each => vec![hash::of_sequence(&hashes) ^ seed],
        _ => hashes.windows(words_each).map(|w| hash::of_sequence(w) ^ seed).collect(),
    };
    set.sort_unstable();
    set.dedup();
    set
}

/// One hash for each band of a document's MinHash signature. Documents that agree in a band are candidates; with
/// similarity `s` they do with probability `1 - (1 - s^rows)^bands`.
pub fn bands(shingles: &[u64], settings: &NearDuplicates) -> Vec<u64> {
    let mut out = Vec::with_capacity(settings.bands);
    let mut row = vec![0u64; settings.rows];
    for band in 0..settings.bands {
        for (r, least) in row.iter_mut().enumerate() {
            let seed = hash::mix((band * settings.rows + r) as u64 + 1);
            // Multiplying by an odd number permutes the 64-bit integers; the high bits of the product are well mixed.
            *least = shingles.iter().map(|s| (s ^ seed).wrapping_mul(seed | 1)).min().unwrap_or(seed);
        }
        out.push(hash::of_sequence(&row));
    }
    out
}

/// Jaccard similarity of two sorted sets.
pub fn jaccard(a: &[u64], b: &[u64]) -> f32 {
    let (mut i, mut j, mut both) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        match a[i].cmp(&b[j]) {
            std::cmp::Ordering::Less => i += 1,
            std::cmp::Ordering::Greater => j += 1,
            std::cmp::Ordering::Equal => (i, j, both) = (i + 1, j + 1, both + 1),
        }
    }
    let either = a.len() + b.len() - both;
    if either == 0 { 1.0 } else { both as f32 / either as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(seed: u64, length: usize) -> Vec<String> {
        (0..length as u64).map(|n| format!("w{}", hash::mix(seed * 1_000_003 + n) % 5000)).collect()
    }

    /// Planted near-duplicates against brute force over all pairs.
    #[test]
    fn planted_duplicates_are_found_and_nothing_else() {
        let settings = NearDuplicates::default();
        let mut texts = Vec::new();
        for n in 0..300u64 {
            let words = document(n, 150);
            let mut changed = words.clone();
            for k in 0..(n % 12) as usize {
                changed[(k * 13 + n as usize) % 150] = format!("changed{k}");
            }
            texts.push(words.join(" "));
            texts.push(changed.join(" "));
        }
        let sets: Vec<_> = texts.iter().map(|t| shingles(t, "en", settings.shingle)).collect();
        let mut truth = Vec::new();
        for a in 0..sets.len() {
            for b in a + 1..sets.len() {
                if jaccard(&sets[a], &sets[b]) >= settings.similarity {
                    truth.push((a as u32, b as u32));
                }
            }
        }
        let signatures: Vec<_> = sets.iter().map(|s| bands(s, &settings)).collect();
        let agree = |(a, b): &(u32, u32)| {
            let (a, b) = (&signatures[*a as usize], &signatures[*b as usize]);
            a.iter().zip(b).any(|(a, b)| a == b)
        };
        assert!(truth.len() >= 150, "the test plants enough: {}", truth.len());
        let recall = truth.iter().filter(|pair| agree(pair)).count() as f32 / truth.len() as f32;
        assert!(recall > 0.97, "recall {recall}");
        let all = sets.len() as u32;
        let pairs = (0..all).flat_map(|a| (a + 1..all).map(move |b| (a, b)));
        let candidates = pairs.filter(|pair| agree(pair)).count();
        assert!(candidates < truth.len() * 2, "{candidates} candidates for {} pairs", truth.len());
    }

    #[test]
    fn languages_and_case() {
        assert_eq!(shingles("A B c d E", "en", 5), shingles("a, b. C d e!", "en", 5));
        assert_ne!(shingles("a b c d e", "en", 5), shingles("a b c d e", "de", 5));
        assert_eq!(shingles("", "en", 5), Vec::<u64>::new());
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
    }
}

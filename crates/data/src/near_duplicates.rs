//! Near-duplicate documents (SPEC DATA-3): MinHash over word shingles, candidates by banded locality-sensitive hashing,
//! their exact Jaccard similarity, connected components. Broder 1997; bands as in Leskovec et al., "Mining of Massive
//! Data Sets", chapter 3.

use crate::filters::words;
use crate::hash;
use crate::settings::NearDuplicates;
use std::collections::BTreeMap;

/// Pairs compared within one bucket of a band; beyond it each document is compared with the first only.
const FULL_COMPARISON: usize = 32;

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

/// Pairs of documents that share a band, each once, in order. `signatures[d]` are the bands of document `d`.
pub fn candidates(signatures: &[Vec<u64>]) -> Vec<(u32, u32)> {
    let bands = signatures.iter().map(Vec::len).max().unwrap_or(0);
    let mut pairs = Vec::new();
    for band in 0..bands {
        let mut column: Vec<(u64, u32)> =
            signatures.iter().zip(0..).filter_map(|(s, d)| Some((*s.get(band)?, d))).collect();
        column.sort_unstable();
        for bucket in column.chunk_by(|a, b| a.0 == b.0).filter(|b| b.len() > 1) {
            for (n, (_, a)) in bucket.iter().enumerate() {
                let others = if bucket.len() <= FULL_COMPARISON {
                    &bucket[n + 1..]
                } else {
                    &bucket[n + 1..(n + 2).min(bucket.len())]
                };
                pairs.extend(others.iter().map(|(_, b)| (*a, *b)));
                if bucket.len() > FULL_COMPARISON && n > 0 {
                    pairs.push((bucket[0].1, *a));
                }
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
    }
    pairs
}

/// Connected components of `count` documents under `edges`: for each document the smallest member of its component.
pub fn components(count: usize, edges: &[(u32, u32)]) -> Vec<u32> {
    let mut parent: Vec<u32> = (0..count as u32).collect();
    fn find(parent: &mut [u32], mut node: u32) -> u32 {
        while parent[node as usize] != node {
            parent[node as usize] = parent[parent[node as usize] as usize];
            node = parent[node as usize];
        }
        node
    }
    for (a, b) in edges {
        let (a, b) = (find(&mut parent, *a), find(&mut parent, *b));
        parent[a.max(b) as usize] = a.min(b);
    }
    (0..count as u32).map(|node| find(&mut parent, node)).collect()
}

/// The members of each component with more than one.
pub fn clusters(components: &[u32]) -> BTreeMap<u32, Vec<u32>> {
    let mut members: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (document, root) in components.iter().enumerate() {
        members.entry(*root).or_default().push(document as u32);
    }
    members.retain(|_, m| m.len() > 1);
    members
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
        let candidates = candidates(&signatures);
        let found: Vec<_> = candidates
            .iter()
            .copied()
            .filter(|(a, b)| jaccard(&sets[*a as usize], &sets[*b as usize]) >= settings.similarity)
            .collect();
        assert!(truth.len() >= 150, "the test plants enough: {}", truth.len());
        let recall = found.iter().filter(|p| truth.contains(p)).count() as f32 / truth.len() as f32;
        assert!(recall > 0.97, "recall {recall}");
        assert!(
            candidates.len() < truth.len() * 2,
            "{} candidates for {} pairs",
            candidates.len(),
            truth.len()
        );
    }

    #[test]
    fn languages_and_case() {
        assert_eq!(shingles("A B c d E", "en", 5), shingles("a, b. C d e!", "en", 5));
        assert_ne!(shingles("a b c d e", "en", 5), shingles("a b c d e", "de", 5));
        assert_eq!(shingles("", "en", 5), Vec::<u64>::new());
        assert_eq!(jaccard(&[1, 2, 3], &[2, 3, 4]), 0.5);
    }

    #[test]
    fn components_join_chains() {
        let components = components(6, &[(4, 5), (0, 2), (2, 4)]);
        assert_eq!(components, [0, 1, 0, 3, 0, 0]);
        assert_eq!(clusters(&components).into_values().collect::<Vec<_>>(), [vec![0, 2, 4, 5]]);
    }
}

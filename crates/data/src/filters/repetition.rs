use super::{Filter, Reason, Verdict, words};
use crate::documents::Document;
use crate::label::is_code_line;
use std::collections::HashMap;

/// Drops documents that say the same words again and again (SPEC DATA-4): logs, error messages, generated lists, whose
/// lines are long and unique, so that line de-duplication misses them. Lines of code are left out: code repeats by
/// nature (SPEC DATA-6).
pub struct Repetition {
    /// Words per n-gram.
    pub ngram: usize,
    /// Greatest share of characters in repeated n-grams.
    pub max_share: f32,
}

/// The share of a text's word characters that lie in n-grams seen before in it (each character counts once), and a place
/// where an n-gram repeats. Numbers count as one word each, so that counters and times do not hide a pattern.
pub fn repeated_share(text: &str, n: usize) -> (f32, Option<&str>) {
    let all: Vec<&str> = words(text).collect();
    if all.len() < 2 * n {
        return (0.0, None);
    }
    let mut hashes: Vec<u64> = Vec::with_capacity(all.len());
    for word in &all {
        let number = word.bytes().all(|b| b.is_ascii_digit());
        hashes.push(if number { 1 } else { crate::hash::of_word(word) });
    }
    let total: usize = all.iter().map(|w| w.len()).sum();
    let mut seen: HashMap<u64, usize, crate::hash::Identity> = HashMap::default();
    let (mut covered, mut covered_to, mut place) = (0usize, 0usize, None);
    for at in 0..=hashes.len() - n {
        let gram = crate::hash::of_sequence(&hashes[at..at + n]);
        let first = *seen.entry(gram).or_insert(at);
        if first == at {
            continue;
        }
        let from = covered_to.max(at);
        covered += all[from..at + n].iter().map(|w| w.len()).sum::<usize>();
        covered_to = at + n;
        place.get_or_insert(at);
    }
    let excerpt = place.map(|at| {
        let start = all[at].as_ptr() as usize - text.as_ptr() as usize;
        &text[start..]
    });
    (covered as f32 / total as f32, excerpt)
}

impl Filter for Repetition {
    fn step(&self) -> &'static str {
        "repetition"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let prose: Vec<&str> = document.text.lines().filter(|line| !is_code_line(line)).collect();
        let prose = prose.join("\n");
        let (share, place) = repeated_share(&prose, self.ngram);
        if share <= self.max_share {
            return Verdict::Keep;
        }
        Verdict::Drop(Reason::new("repeated n-grams", share, self.max_share, place.unwrap_or("")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn a_log_goes_and_prose_stays() {
        let filter = Repetition { ngram: 5, max_share: 0.5 };
        let log: String = (0..40)
            .map(|n| format!("[{:.3}] kernel: usb 1-{n}: new high-speed USB device number {n} using the driver xhci_hcd\n", n as f32 * 1.7))
            .collect();
        let Verdict::Drop(reason) = filter.apply(&mut document(&log)) else { panic!("a log was kept") };
        assert!(reason.value > 0.9 && reason.excerpt.contains("kernel"), "{reason:?}");
        let prose = include_str!("../../tests/prose.txt");
        assert_eq!(filter.apply(&mut document(prose)), Verdict::Keep);
        assert!(repeated_share(prose, 5).0 < 0.05);
    }

    #[test]
    fn each_character_counts_once() {
        let (share, _) = repeated_share("a b c d a b c d", 2);
        assert_eq!(share, 3.0 / 8.0 + 1.0 / 8.0, "the second a b, b c, c d cover four of eight characters");
        assert_eq!(repeated_share("a b", 2).0, 0.0);
    }
}

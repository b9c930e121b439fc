//! Line de-duplication (SPEC DATA-3, ccNet): a line that occurs more than a few times among the documents of a language
//! is a menu, a notice, a signature; it goes from all of them.

use crate::domain;
use crate::hash;

/// Letters that a line must have to be counted. Shorter lines, such as closing braces or numbers in tables, repeat
/// without being boilerplate.
const MIN_LETTERS: usize = 8;

/// The key under which a line is counted: its letters in lower case, all digits as one (ccNet's normalisation). `None` for
/// lines that are never dropped: too few letters, or code. Lines are counted for each bucket of documents.
pub fn key(line: &str, language: &str, bucket: u64) -> Option<u64> {
    let mut letters = 0;
    let mut normal = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_alphabetic() {
            letters += 1;
            normal.extend(c.to_lowercase());
        } else if c.is_numeric() {
            normal.push('0');
        }
    }
    if letters < MIN_LETTERS || domain::is_code_line(line) {
        return None;
    }
    Some(hash::of_bytes(normal.as_bytes()) ^ hash::of_bytes(language.as_bytes()) ^ hash::mix(bucket))
}

/// The keys of a document's lines, each once: a line counts once per document, as in documents and not in occurrences a
/// refrain would condemn itself.
pub fn keys(text: &str, language: &str, bucket: u64) -> Vec<u64> {
    let mut keys: Vec<u64> = text.lines().filter_map(|line| key(line, language, bucket)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The text without its frequent lines, whose keys are sorted; `None` if it has none.
pub fn without(text: &str, language: &str, bucket: u64, frequent: &[u64]) -> Option<String> {
    let goes =
        |line: &str| key(line, language, bucket).is_some_and(|key| frequent.binary_search(&key).is_ok());
    if !text.lines().any(goes) {
        return None;
    }
    let kept: Vec<&str> = text.lines().filter(|line| !goes(line)).collect();
    Some(kept.join("\n").trim_matches('\n').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_lines_go_within_their_language_only() {
        let page = |n: usize| {
            format!(
                "Accept all cookies now!\nThis is the story of page {}, told once.\n}}",
                ["one", "two", "six", "ten"][n]
            )
        };
        let mut counted: Vec<u64> = (0..4).flat_map(|n| keys(&page(n), "en", 0)).collect();
        counted.sort_unstable();
        let frequent: Vec<u64> =
            counted.chunk_by(|a, b| a == b).filter(|run| run.len() > 3).map(|run| run[0]).collect();
        assert_eq!(frequent.len(), 1);
        let left = without(&page(0), "en", 0, &frequent).unwrap();
        assert_eq!(left, "This is the story of page one, told once.\n}");
        assert_eq!(without(&page(0), "de", 0, &frequent), None);
        assert_eq!(without(&page(0), "en", 1, &frequent), None, "another bucket");
        assert_eq!(without("Another text that nobody repeats.", "en", 0, &frequent), None);
    }

    #[test]
    fn digits_do_not_make_lines_different_and_code_is_left_alone() {
        assert_eq!(key("Copyright 2019 The Project", "en", 0), key("copyright 2026, the project", "en", 0));
        assert_eq!(key("}", "en", 0), None);
        assert_eq!(key("    let value = compute(&input);", "en", 0), None);
    }
}

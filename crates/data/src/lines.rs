//! Line de-duplication (SPEC DATA-3, ccNet): a line that occurs more than a few times among the documents of a language
//! is a menu, a notice, a signature; it goes from all of them.

use crate::domain;
use crate::hash;

/// Letters that a line must have to be counted. Shorter lines, such as closing braces or numbers in tables, repeat
/// without being boilerplate.
const MIN_LETTERS: usize = 8;

/// The key under which a line is counted: its letters in lower case, all digits as one (ccNet's normalisation). `None` for
/// lines that are never dropped: too few letters, or code.
pub fn key(line: &str, language: &str) -> Option<u64> {
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
    Some(hash::of_bytes(normal.as_bytes()) ^ hash::of_bytes(language.as_bytes()))
}

/// The keys of a document's lines, each once: a line counts once per document, as in documents and not in occurrences a
/// refrain would condemn itself.
pub fn keys(text: &str, language: &str) -> Vec<u64> {
    let mut keys: Vec<u64> = text.lines().filter_map(|line| key(line, language)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Of all keys counted, those that occur more than `max` times, sorted.
pub fn frequent(mut counted: Vec<u64>, max: u32) -> Vec<u64> {
    counted.sort_unstable();
    counted.chunk_by(|a, b| a == b).filter(|run| run.len() > max as usize).map(|run| run[0]).collect()
}

/// The text without its frequent lines; `None` if it has none.
pub fn without(text: &str, language: &str, frequent: &[u64]) -> Option<String> {
    let goes = |line: &str| key(line, language).is_some_and(|key| frequent.binary_search(&key).is_ok());
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
        let counted: Vec<u64> = (0..4).flat_map(|n| keys(&page(n), "en")).collect();
        let frequent = frequent(counted, 3);
        assert_eq!(frequent.len(), 1);
        let left = without(&page(0), "en", &frequent).unwrap();
        assert_eq!(left, "This is the story of page one, told once.\n}");
        assert_eq!(without(&page(0), "de", &frequent), None);
        assert_eq!(without("Another text that nobody repeats.", "en", &frequent), None);
    }

    #[test]
    fn digits_do_not_make_lines_different_and_code_is_left_alone() {
        assert_eq!(key("Copyright 2019 The Project", "en"), key("copyright 2026, the project", "en"));
        assert_eq!(key("}", "en"), None);
        assert_eq!(key("    let value = compute(&input);", "en"), None);
    }
}

//! The split rule of GPT-2, by hand.
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```

use super::classes::{Class, Classes};

/// The rule as Hugging Face writes it (and the `ByteLevel` pre-tokenizer means with `use_regex`).
pub(crate) const GPT2_PATTERN: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Where the piece ends that begins at `start`, which is inside `text`.
pub(super) fn piece_end(classes: &Classes, text: &[u8], start: usize) -> usize {
    match text[start..] {
        [b'\'', b's' | b't' | b'm' | b'd', ..] => return start + 2,
        [b'\'', b'r' | b'v', b'e', ..] | [b'\'', b'l', b'l', ..] => return start + 3,
        _ => {}
    }
    let after_space = start + usize::from(text[start] == b' ');
    if after_space < text.len() {
        let (class, length) = classes.at(text, after_space);
        if !class.is_whitespace() {
            return run_end(classes, text, after_space + length, |other| other == class);
        }
    }
    let end = run_end(classes, text, start, Class::is_whitespace);
    if end == text.len() {
        return end;
    }
    // The last character of the run is left for the next piece, unless it is the only one.
    let last = (start..end).rev().find(|&at| text[at] & 0xc0 != 0x80).unwrap_or(start);
    if last > start { last } else { end }
}

/// End of the run of characters of a class from `at`.
pub(super) fn run_end(
    classes: &Classes,
    text: &[u8],
    mut at: usize,
    belongs: impl Fn(Class) -> bool,
) -> usize {
    while at < text.len() {
        let (class, length) = classes.at(text, at);
        if !belongs(class) {
            break;
        }
        at += length;
    }
    at
}

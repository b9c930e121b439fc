//! The split rule of Llama 3, by hand: one pass, no backtracking, no regex engine.
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//!
//! Alternatives are tried in this order at each position (leftmost-first), and together they match every
//! character, so the pieces cover the text.

use super::classes::{CLASSES, Class, Classes};

/// The rule as Hugging Face and tiktoken write it.
pub(crate) const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Iterator over the pieces of a text; see [`pieces`].
pub struct Pieces<'t> {
    text: &'t str,
    classes: &'static Classes,
}

/// Splits a text by the Llama 3 rule. The pieces are never empty and concatenate to the text.
///
/// ```
/// let pieces: Vec<_> = herd_tokenizer::pieces("I'll pay  1234 €!").collect();
/// assert_eq!(pieces, ["I", "'ll", " pay", " ", " ", "123", "4", " €!"]);
/// ```
pub fn pieces(text: &str) -> Pieces<'_> {
    Pieces { text, classes: &CLASSES }
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;

    #[inline]
    fn next(&mut self) -> Option<&'t str> {
        if self.text.is_empty() {
            return None;
        }
        let (piece, rest) = self.text.split_at(piece_end(self.classes, self.text.as_bytes(), 0));
        self.text = rest;
        Some(piece)
    }
}

/// Where the piece ends that begins at `start`, which is inside `text`. `text` is UTF-8 and so are all pieces.
#[inline]
pub(crate) fn piece_end(classes: &Classes, text: &[u8], start: usize) -> usize {
    // Nearly all pieces of English text: a word, with the space before it.
    let word = start + usize::from(text[start] == b' ');
    if text.get(word).is_some_and(u8::is_ascii_alphabetic) {
        return letters_end(classes, text, word + 1);
    }
    other_piece_end(classes, text, start)
}

fn other_piece_end(classes: &Classes, text: &[u8], start: usize) -> usize {
    let (class, length) = classes.at(text, start);
    let next = start + length;
    match class {
        Class::Letter => letters_end(classes, text, next),
        Class::Number => numbers_end(classes, text, next),
        Class::Newline => whitespace_end(classes, text, start),
        Class::Other | Class::Space | Class::Blank => {
            if text[start] == b'\''
                && let Some(length) = contraction(&text[next..])
            {
                return next + length;
            }
            if next == text.len() {
                return next;
            }
            let (following, length) = classes.at(text, next);
            if following == Class::Letter {
                // A letter run may take one character before it that is no newline, letter or number.
                letters_end(classes, text, next + length)
            } else if class == Class::Other || (class == Class::Space && following == Class::Other) {
                symbols_end(classes, text, next)
            } else {
                whitespace_end(classes, text, start)
            }
        }
    }
}

/// Length of what follows an apostrophe in a contraction. `s` also matches U+017F, its case-insensitive equal.
#[inline]
fn contraction(rest: &[u8]) -> Option<usize> {
    match *rest {
        [b's' | b't' | b'm' | b'd' | b'S' | b'T' | b'M' | b'D', ..] => Some(1),
        [b'r' | b'R' | b'v' | b'V', b'e' | b'E', ..] | [b'l' | b'L', b'l' | b'L', ..] => Some(2),
        [0xc5, 0xbf, ..] => Some(2),
        _ => None,
    }
}

/// End of `\p{L}*` from `at`.
#[inline]
fn letters_end(classes: &Classes, text: &[u8], at: usize) -> usize {
    if let Some(eight) = text.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()) {
        let others = not_letters(u64::from_le_bytes(eight));
        let end = at + others.trailing_zeros() as usize / 8;
        // A byte above 0x7f may begin another letter, and after eight letters there may be more.
        if others != 0 && text[end] < 0x80 {
            return end;
        }
    }
    long_letters_end(classes, text, at)
}

#[inline(never)]
fn long_letters_end(classes: &Classes, text: &[u8], mut at: usize) -> usize {
    loop {
        while let Some(eight) = text.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()) {
            let others = not_letters(u64::from_le_bytes(eight));
            at += others.trailing_zeros() as usize / 8;
            if others != 0 {
                break;
            }
        }
        while at < text.len() && text[at].is_ascii_alphabetic() {
            at += 1;
        }
        let from = at;
        while at < text.len() && text[at] >= 0x80 {
            let (class, length) = classes.at(text, at);
            if class != Class::Letter {
                return at;
            }
            at += length;
        }
        if at == from {
            return at;
        }
    }
}

/// The high bit of each of eight bytes that is no ASCII letter.
#[inline]
fn not_letters(eight: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * ONES;
    // Without the high bits the sums cannot carry from byte to byte.
    let lower = (eight | (0x20 * ONES)) & !HIGH;
    let at_least_a = lower + (0x80 - b'a' as u64) * ONES;
    let above_z = lower + (0x7f - b'z' as u64) * ONES;
    (!at_least_a | above_z | eight) & HIGH
}

/// End of `\p{N}{0,2}` from `at`.
#[inline]
fn numbers_end(classes: &Classes, text: &[u8], mut at: usize) -> usize {
    for _ in 0..2 {
        if at == text.len() {
            break;
        }
        let (class, length) = classes.at(text, at);
        if class != Class::Number {
            break;
        }
        at += length;
    }
    at
}

/// End of `[^\s\p{L}\p{N}]*[\r\n]*` from `at`.
fn symbols_end(classes: &Classes, text: &[u8], mut at: usize) -> usize {
    while at < text.len() {
        let (class, length) = classes.at(text, at);
        if class != Class::Other {
            break;
        }
        at += length;
    }
    while at < text.len() && matches!(text[at], b'\r' | b'\n') {
        at += 1;
    }
    at
}

/// End of `\s*[\r\n]+|\s+(?!\S)|\s+` from `start`, where whitespace stands: up to the last newline of the run; else
/// all of it but the last character, which the next piece may need; else, at the end of the text, all of it.
fn whitespace_end(classes: &Classes, text: &[u8], start: usize) -> usize {
    let (mut last_newline, mut before_last, mut end) = (start, start, start);
    while end < text.len() {
        let (class, length) = classes.at(text, end);
        if !class.is_whitespace() {
            break;
        }
        before_last = end;
        end += length;
        if class == Class::Newline {
            last_newline = end;
        }
    }
    if last_newline > start {
        last_newline
    } else if end == text.len() || before_last == start {
        end
    } else {
        before_last
    }
}

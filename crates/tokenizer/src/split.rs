//! The split rule of Llama 3, by hand: one pass, no backtracking, no regex engine.
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//!
//! Alternatives are tried in this order at each position (leftmost-first), and together they match every
//! character, so the pieces cover the text.

use crate::classes::{CLASSES, Class, Classes};

/// The rule as Hugging Face and tiktoken write it; goes into `tokenizer.json`.
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
        let (piece, rest) = self.text.split_at(first_end(self.classes, self.text));
        self.text = rest;
        Some(piece)
    }
}

/// Length in bytes of the first piece of a non-empty text.
#[inline]
fn first_end(classes: &Classes, text: &str) -> usize {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return 0 };
    let rest = chars.as_str();
    let head = first.len_utf8();
    let class = classes.of(first);
    match class {
        Class::Letter => head + run(classes, rest, Class::Letter),
        Class::Number => {
            head + rest
                .chars()
                .take(2)
                .take_while(|&c| classes.of(c) == Class::Number)
                .map(char::len_utf8)
                .sum::<usize>()
        }
        Class::Newline => whitespace(classes, text),
        Class::Other | Class::Space | Class::Blank => {
            if first == '\''
                && let Some(length) = contraction(rest)
            {
                return head + length;
            }
            match rest.chars().next().map(|c| classes.of(c)) {
                // A letter run may take one character before it that is no newline, letter or number.
                Some(Class::Letter) => head + run(classes, rest, Class::Letter),
                Some(Class::Other) if class == Class::Space => head + symbols(classes, rest),
                _ if class == Class::Other => symbols(classes, text),
                _ => whitespace(classes, text),
            }
        }
    }
}

/// Length of what follows an apostrophe in a contraction. `s` also matches U+017F, its case-insensitive equal.
fn contraction(rest: &str) -> Option<usize> {
    let mut chars = rest.chars();
    let first = chars.next()?;
    match first.to_ascii_lowercase() {
        's' | 't' | 'm' | 'd' | 'ſ' => Some(first.len_utf8()),
        'r' | 'v' => matches!(chars.next(), Some('e' | 'E')).then_some(2),
        'l' => matches!(chars.next(), Some('l' | 'L')).then_some(2),
        _ => None,
    }
}

/// Length of the run of one class that the text begins with.
#[inline]
fn run(classes: &Classes, text: &str, class: Class) -> usize {
    text.char_indices().find(|&(_, c)| classes.of(c) != class).map_or(text.len(), |(at, _)| at)
}

/// `[^\s\p{L}\p{N}]+[\r\n]*`
fn symbols(classes: &Classes, text: &str) -> usize {
    let end = run(classes, text, Class::Other);
    end + run(classes, &text[end..], Class::Newline)
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` on a text that begins with whitespace: up to the last newline of the run; else all
/// of it but the last character, which the next piece may need; else, at the end of the text, all of it.
fn whitespace(classes: &Classes, text: &str) -> usize {
    let (mut last_newline, mut before_last, mut end) = (0, 0, 0);
    for c in text.chars() {
        let class = classes.of(c);
        if !class.is_whitespace() {
            break;
        }
        before_last = end;
        end += c.len_utf8();
        if class == Class::Newline {
            last_newline = end;
        }
    }
    if last_newline > 0 {
        last_newline
    } else if end == text.len() || before_last == 0 {
        end
    } else {
        before_last
    }
}

//! Rules by which a text is cut into pieces before its bytes are merged.

#[cfg(target_arch = "x86_64")]
mod blocks;
mod classes;
mod gpt2;
mod llama3;
mod pattern;
#[cfg(target_arch = "x86_64")]
mod wide;
mod windows;

pub(crate) use classes::{CLASSES, Classes};
pub(crate) use gpt2::GPT2_PATTERN;
pub(crate) use llama3::LLAMA3_PATTERN;
pub use llama3::{Pieces, pieces};
pub(crate) use pattern::Pattern;
pub(crate) use windows::{ENDS, Workspace, piece_ends as llama3_piece_ends};

use classes::Class;

/// Character helpers for modules that look at texts byte by byte.
pub(crate) mod characters {
    pub(crate) use super::classes::{code_point, length};
}

/// A whole rule: steps, each of which cuts the pieces of the one before.
#[derive(Debug, Clone)]
pub(crate) enum Split {
    /// The rule of Llama 3, which has a path of its own through the encoder.
    Llama3,
    /// Any other.
    Steps(Vec<Step>),
}

/// One cut.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// [`LLAMA3_PATTERN`]
    Llama3,
    /// [`GPT2_PATTERN`]
    Gpt2,
    /// Numbers on their own: every digit, or runs of them.
    Digits { individual: bool },
    /// A regular expression; what stands between the matches is a piece also.
    Pattern(Pattern),
}

impl Split {
    /// The simplest form of a list of steps.
    pub(crate) fn of(steps: Vec<Step>) -> Self {
        if matches!(steps.as_slice(), [Step::Llama3]) { Split::Llama3 } else { Split::Steps(steps) }
    }

    /// The steps.
    pub(crate) fn steps(&self) -> &[Step] {
        match self {
            Split::Llama3 => &[Step::Llama3],
            Split::Steps(steps) => steps,
        }
    }

    /// Whether a text cut where a letter is followed by another character ([`after_letters`]) has the same pieces as the
    /// whole: letters never join what follows them, and what follows is looked at from its beginning only.
    pub(crate) fn cuts_after_letters(&self) -> bool {
        let first = self.steps().iter().find(|step| !matches!(step, Step::Digits { .. }));
        matches!(first, Some(Step::Llama3 | Step::Gpt2))
    }

    /// The ends of all pieces of a text, ascending.
    pub(crate) fn ends(&self, text: &str) -> Vec<usize> {
        let mut ends = if text.is_empty() { Vec::new() } else { vec![text.len()] };
        let mut finer = Vec::new();
        for step in self.steps() {
            finer.clear();
            let mut start = 0;
            for &end in &ends {
                step.split(text, start, end, &mut finer);
                start = end;
            }
            std::mem::swap(&mut ends, &mut finer);
        }
        ends
    }
}

/// The first place, at least so many bytes from the beginning, where a letter is followed by another character; the end
/// of the text if there is none.
pub(crate) fn after_letters(text: &str, least: usize) -> usize {
    let (classes, bytes) = (&*CLASSES, text.as_bytes());
    let (mut at, mut after_letter) = (text.ceil_char_boundary(least), false);
    while at < bytes.len() {
        let (class, length) = classes.at(bytes, at);
        if after_letter && class != Class::Letter {
            break;
        }
        after_letter = class == Class::Letter;
        at += length;
    }
    at
}

impl Step {
    /// The step that does what a regular expression says.
    ///
    /// # Errors
    /// What in it is not understood.
    pub(crate) fn of_pattern(pattern: &str) -> Result<Self, String> {
        // Without the last alternative a lone blank before a word matches nothing, and is a piece all the same.
        let trimmed = pattern.strip_suffix(r"|\s+").unwrap_or(pattern);
        Ok(if LLAMA3_PATTERN.strip_suffix(r"|\s+") == Some(trimmed) {
            Step::Llama3
        } else if GPT2_PATTERN.strip_suffix(r"|\s+") == Some(trimmed) {
            Step::Gpt2
        } else {
            Step::Pattern(Pattern::new(pattern)?)
        })
    }

    /// Appends the ends of the pieces of `text[start..end]`.
    fn split(&self, text: &str, start: usize, end: usize, ends: &mut Vec<usize>) {
        let classes = &*CLASSES;
        let bytes = &text.as_bytes()[..end];
        let mut at = start;
        match self {
            Step::Pattern(pattern) => pattern.split(text, start, end, ends),
            Step::Llama3 => {
                while at < end {
                    at = llama3::piece_end(classes, bytes, at);
                    ends.push(at);
                }
            }
            Step::Gpt2 => {
                while at < end {
                    at = gpt2::piece_end(classes, bytes, at);
                    ends.push(at);
                }
            }
            Step::Digits { individual } => {
                while at < end {
                    let (class, length) = classes.at(bytes, at);
                    at = match (class, individual) {
                        (Class::Number, true) => at + length,
                        (Class::Number, false) => gpt2::run_end(classes, bytes, at, |c| c == Class::Number),
                        _ => gpt2::run_end(classes, bytes, at, |c| c != Class::Number),
                    };
                    ends.push(at);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// Wherever a text may be cut, its two parts have its pieces.
        #[test]
        fn parts_have_the_pieces_of_the_whole(text in "[a-eL-T'0-9 \n\r\t.,!\u{a0}\u{301}\u{3000}éſ語。ー①]{0,60}", least in 0..60_usize) {
            let at = after_letters(&text, least.min(text.len()));
            let rules = [
                vec![Step::Llama3],
                vec![Step::Gpt2],
                vec![Step::Digits { individual: true }, Step::Gpt2],
                vec![Step::Digits { individual: false }, Step::Llama3, Step::Digits { individual: true }],
                vec![Step::Llama3, Step::of_pattern("[a-c]+|.").unwrap()],
            ];
            for rule in rules.map(Split::of) {
                prop_assert!(rule.cuts_after_letters());
                let (before, after) = text.split_at(at);
                let mut ends = rule.ends(before);
                ends.extend(rule.ends(after).into_iter().map(|end| at + end));
                prop_assert_eq!(ends, rule.ends(&text), "{:?} {:?}", rule, before);
            }
        }
    }

    #[test]
    fn texts_are_cut_after_letters() {
        for (text, least, at) in [
            ("", 0, 0),
            ("ab cd", 0, 2),
            ("ab cd", 1, 2),
            ("ab cd", 2, 5),
            ("12 34", 0, 5),
            ("語ー。", 0, 6),
            ("語ー。", 1, 6),
            ("it's!", 0, 2),
            ("it's!", 2, 4),
        ] {
            assert_eq!(after_letters(text, least), at, "{text} {least}");
        }
        // What such a pattern does with a newline before a letter is not known.
        let unknown = vec![Step::of_pattern("\\n[a-z]+").unwrap(), Step::Gpt2];
        assert!(!Split::of(unknown).cuts_after_letters());
    }
}

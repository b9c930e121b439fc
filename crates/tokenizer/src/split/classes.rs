//! The character classes that the split rule asks for, as tables over bytes and over all of Unicode.

use regex_syntax::hir::{Class as HirClass, HirKind};
use std::sync::LazyLock;

/// What the split rule needs to know of a character. The classes are disjoint and cover Unicode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Class {
    /// None of the others: punctuation, symbols, marks, controls, unassigned.
    Other = 0,
    /// `\p{L}`
    Letter = 1,
    /// `\p{N}`
    Number = 2,
    /// U+0020
    Space = 3,
    /// `\s` besides U+0020, `\r` and `\n`
    Blank = 4,
    /// `\r` or `\n`
    Newline = 5,
}

impl Class {
    /// `\s`
    #[inline]
    pub(crate) fn is_whitespace(self) -> bool {
        self as u8 >= Class::Space as u8
    }
}

/// Characters per block of the second level.
const BLOCK: usize = 256;
/// Characters in all.
const CHARACTERS: usize = 0x11_0000;

pub(crate) struct Classes {
    /// The class of all characters that begin with this byte, if they share one: ASCII, most Chinese, Cyrillic.
    by_first_byte: [Option<Class>; 256],
    /// Block number of each 256 characters.
    index: Box<[u16; CHARACTERS / BLOCK]>,
    blocks: Vec<[Class; BLOCK]>,
    /// The same for characters of two and three bytes, for look-ups in registers.
    #[cfg(target_arch = "x86_64")]
    pub(super) wide: super::blocks::Tables,
}

/// The one table, built on first use from the Unicode data of `regex-syntax` (some milliseconds).
pub(crate) static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);

impl Classes {
    /// Class and length of the character that begins at `at`; `bytes` is UTF-8 and has one there.
    #[inline]
    pub(crate) fn at(&self, bytes: &[u8], at: usize) -> (Class, usize) {
        let first = bytes[at];
        let length = length(first);
        match self.by_first_byte[usize::from(first)] {
            Some(class) => (class, length),
            None => (self.of(code_point(&bytes[at..at + length])), length),
        }
    }

    #[inline]
    fn of(&self, code: usize) -> Class {
        self.blocks[usize::from(self.index[code / BLOCK])][code % BLOCK]
    }

    fn build() -> Self {
        let mut flat = vec![Class::Other; CHARACTERS];
        for (pattern, class) in [(r"\p{L}", Class::Letter), (r"\p{N}", Class::Number), (r"\s", Class::Blank)]
        {
            let hir = regex_syntax::parse(pattern).unwrap_or_else(|e| unreachable!("{pattern}: {e}"));
            if let HirKind::Class(HirClass::Unicode(ranges)) = hir.kind() {
                for range in ranges.ranges() {
                    flat[range.start() as usize..=range.end() as usize].fill(class);
                }
            }
        }
        flat[usize::from(b' ')] = Class::Space;
        flat[usize::from(b'\r')] = Class::Newline;
        flat[usize::from(b'\n')] = Class::Newline;

        let mut by_first_byte = [None; 256];
        let mut seen = [false; 256];
        for c in '\0'..=char::MAX {
            let first = usize::from(c.encode_utf8(&mut [0; 4]).as_bytes()[0]);
            let class = flat[c as usize];
            if !seen[first] {
                (seen[first], by_first_byte[first]) = (true, Some(class));
            } else if by_first_byte[first] != Some(class) {
                by_first_byte[first] = None;
            }
        }
        let mut blocks: Vec<[Class; BLOCK]> = Vec::new();
        let mut index = Box::new([0; CHARACTERS / BLOCK]);
        for (number, chunk) in index.iter_mut().zip(flat.as_chunks::<BLOCK>().0) {
            let at = blocks.iter().position(|b| b == chunk).unwrap_or_else(|| {
                blocks.push(*chunk);
                blocks.len() - 1
            });
            *number = at as u16;
        }
        Self {
            by_first_byte,
            index,
            blocks,
            #[cfg(target_arch = "x86_64")]
            wide: super::blocks::Tables::new(|code| flat[code]),
        }
    }
}

/// Bytes of the character that begins with `first`.
#[inline]
pub(crate) fn length(first: u8) -> usize {
    match first {
        0..0xc0 => 1,
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
    }
}

/// The code point of one encoded character.
#[inline]
pub(crate) fn code_point(bytes: &[u8]) -> usize {
    let low = |byte: u8| usize::from(byte & 0x3f);
    match *bytes {
        [a] => usize::from(a),
        [a, b] => usize::from(a & 0x1f) << 6 | low(b),
        [a, b, c] => usize::from(a & 0x0f) << 12 | low(b) << 6 | low(c),
        [a, b, c, d] => (usize::from(a & 0x07) << 18 | low(b) << 12 | low(c) << 6 | low(d)) % CHARACTERS,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_class() {
        let class = |c: char| CLASSES.at(c.encode_utf8(&mut [0; 4]).as_bytes(), 0).0;
        for c in '\0'..=char::MAX {
            assert_eq!(class(c).is_whitespace(), c.is_whitespace(), "{c:?}");
            assert_eq!(class(c), CLASSES.of(c as usize), "{c:?}");
        }
        for (c, expected) in [
            ('a', Class::Letter),
            ('ß', Class::Letter),
            ('語', Class::Letter),
            ('²', Class::Number),
            ('Ⅷ', Class::Number),
            ('\u{0301}', Class::Other),
            ('_', Class::Other),
            ('\u{a0}', Class::Blank),
            ('\u{85}', Class::Blank),
            ('\u{200b}', Class::Other),
        ] {
            assert_eq!(class(c), expected, "{c:?}");
        }
    }
}

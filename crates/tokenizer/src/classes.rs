//! The character classes that the split rule asks for, as a two-level table over all of Unicode.

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

pub(crate) struct Classes {
    /// Block number of each 256 characters.
    index: Vec<u16>,
    blocks: Vec<[Class; BLOCK]>,
}

/// The one table, built on first use from the Unicode data of `regex-syntax` (0.2 ms).
pub(crate) static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);

impl Classes {
    #[inline]
    pub(crate) fn of(&self, c: char) -> Class {
        let code = c as usize;
        self.blocks[usize::from(self.index[code / BLOCK])][code % BLOCK]
    }

    fn build() -> Self {
        let mut flat = vec![Class::Other; 0x11_0000];
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

        let mut blocks: Vec<[Class; BLOCK]> = Vec::new();
        let mut index = Vec::with_capacity(flat.len() / BLOCK);
        for chunk in flat.as_chunks::<BLOCK>().0 {
            let at = blocks.iter().position(|b| b == chunk).unwrap_or_else(|| {
                blocks.push(*chunk);
                blocks.len() - 1
            });
            index.push(at as u16);
        }
        Self { index, blocks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_has_its_class() {
        for c in '\0'..=char::MAX {
            let class = CLASSES.of(c);
            assert_eq!(class.is_whitespace(), c.is_whitespace(), "{c:?}");
        }
        for (c, class) in [
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
            assert_eq!(CLASSES.of(c), class, "{c:?}");
        }
    }
}

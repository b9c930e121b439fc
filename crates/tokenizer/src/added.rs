//! Tokens that are found in a text before anything else is done to it.

use crate::Error;
use aho_corasick::{AhoCorasick, MatchKind};
use std::ops::Range;

/// A token that stands for a fixed text.
#[derive(Debug, Clone)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    /// Found only where special tokens are read, and shown by name.
    pub(crate) special: bool,
    /// Takes the white space before it.
    pub(crate) lstrip: bool,
    /// Takes the white space after it.
    pub(crate) rstrip: bool,
}

impl AddedToken {
    pub(crate) fn special(id: u32, content: impl Into<String>) -> Self {
        Self { id, content: content.into(), special: true, lstrip: false, rstrip: false }
    }
}

/// The added tokens of a vocabulary; the longest that begins leftmost is found.
pub(crate) struct AddedTokens {
    /// By ascending id.
    list: Vec<AddedToken>,
    all: AhoCorasick,
    /// Those that are text, and where each stands in `list`; none in most vocabularies.
    plain: Option<(AhoCorasick, Vec<usize>)>,
}

impl AddedTokens {
    /// Tokens in ascending order of their ids.
    pub(crate) fn new(list: Vec<AddedToken>) -> Result<Self, Error> {
        let build = |names: Vec<&str>| {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostLongest)
                .build(names)
                .map_err(|e| Error::Vocabulary(format!("special tokens: {e}")))
        };
        if let Some(empty) = list.iter().find(|token| token.content.is_empty()) {
            return Err(Error::Vocabulary(format!("the special token {} has no name", empty.id)));
        }
        let all = build(list.iter().map(|token| token.content.as_str()).collect())?;
        let places: Vec<usize> = (0..list.len()).filter(|&at| !list[at].special).collect();
        let plain = match places.is_empty() {
            true => None,
            false => Some((build(places.iter().map(|&at| list[at].content.as_str()).collect())?, places)),
        };
        Ok(Self { list, all, plain })
    }

    /// Whether some are found in plain text too.
    pub(crate) fn has_plain(&self) -> bool {
        self.plain.is_some()
    }

    pub(crate) fn list(&self) -> &[AddedToken] {
        &self.list
    }

    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        self.list.iter().find(|token| token.content == name).map(|token| token.id)
    }

    /// Calls `visit` with each stretch of text between added tokens, whether it begins the text, and the token after
    /// it, if any. Special ones are found only with `specials`.
    pub(crate) fn for_each_segment(
        &self,
        text: &str,
        specials: bool,
        mut visit: impl FnMut(&str, bool, Option<u32>),
    ) {
        let mut done = 0;
        let mut found = |token: &AddedToken, range: Range<usize>| {
            let before = text.get(done..range.start).unwrap_or_default();
            let before = if token.lstrip { before.trim_end() } else { before };
            visit(before, done == 0, Some(token.id));
            let after = &text[range.end..];
            done = range.end + if token.rstrip { after.len() - after.trim_start().len() } else { 0 };
        };
        match &self.plain {
            _ if specials => {
                self.all.find_iter(text).for_each(|m| found(&self.list[m.pattern().as_usize()], m.range()));
            }
            Some((matcher, places)) => matcher
                .find_iter(text)
                .for_each(|m| found(&self.list[places[m.pattern().as_usize()]], m.range())),
            None => {}
        }
        visit(text.get(done..).unwrap_or_default(), done == 0, None);
    }

    /// Where names of special tokens stand in a text.
    pub(crate) fn special_ranges(&self, text: &str) -> Vec<Range<usize>> {
        let found = self.all.find_iter(text);
        found.filter(|m| self.list[m.pattern().as_usize()].special).map(|m| m.range()).collect()
    }
}

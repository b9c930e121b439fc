use super::{Filter, Reason, Verdict, words};
use crate::documents::Document;
use herd_run::atomic::{self, FileError};
use std::collections::BTreeSet;
use std::path::Path;

/// Words that adult spam is made of, in several languages; none that medicine or law needs in running text alone.
const BUILT_IN: &str = include_str!("../../assets/dirty_words.txt");

/// Drops documents with many dirty words (SPEC DATA-4): adult sites that no block list has.
pub struct DirtyWordShare {
    words: BTreeSet<String>,
    max_share: f32,
    min_count: u32,
}

impl DirtyWordShare {
    /// The built-in list, or that of a file with one word a line.
    pub fn new(list: Option<&Path>, max_share: f32, min_count: u32) -> Result<Self, FileError> {
        let text = match list {
            Some(path) => String::from_utf8_lossy(&atomic::read(path)?).into_owned(),
            None => BUILT_IN.to_string(),
        };
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim().to_lowercase());
        Ok(Self { words: lines.filter(|w| !w.is_empty()).collect(), max_share, min_count })
    }
}

impl Filter for DirtyWordShare {
    fn step(&self) -> &'static str {
        "dirty words"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let (mut total, mut dirty, mut first) = (0u32, 0u32, None);
        for word in words(&document.text) {
            total += 1;
            if self.words.contains(word)
                || (word.chars().any(char::is_uppercase) && self.words.contains(&word.to_lowercase()))
            {
                dirty += 1;
                first.get_or_insert(word);
            }
        }
        let share = dirty as f32 / total.max(1) as f32;
        if dirty < self.min_count || share <= self.max_share {
            return Verdict::Keep;
        }
        let at = first.map_or(0, |w| w.as_ptr() as usize - document.text.as_ptr() as usize);
        Verdict::Drop(Reason::new("dirty words", share, self.max_share, &document.text[at..]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn spam_goes_and_a_single_word_does_not_matter() {
        let filter = DirtyWordShare::new(None, 0.01, 4).unwrap();
        let spam = "Watch hot XXX porn live. Free sexy nude cams tonight, best porn videos and nude girls.";
        assert!(matches!(filter.apply(&mut document(spam)), Verdict::Drop(_)));
        let article =
            "The court heard that the firm had sold porn to minors; the judge fined it and closed the case.";
        assert_eq!(filter.apply(&mut document(article)), Verdict::Keep);
        let prose = include_str!("../../tests/prose.txt");
        assert_eq!(filter.apply(&mut document(prose)), Verdict::Keep);
    }
}

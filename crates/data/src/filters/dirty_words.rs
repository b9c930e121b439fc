use super::{Filter, Reason, Verdict, words};
use crate::documents::Document;
use crate::settings::DirtyWords;
use herd_run::atomic::{self, FileError};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Words that adult spam is made of, in several languages; none that medicine or law needs in running text alone.
const BUILT_IN: &str = include_str!("../../assets/dirty_words.txt");

/// Drops documents with many dirty words (SPEC DATA-4): adult sites that no block list has.
pub struct DirtyWordShare {
    words: BTreeSet<String>,
    of_language: BTreeMap<String, BTreeSet<String>>,
    max_share: f32,
    min_count: u32,
}

impl DirtyWordShare {
    /// The built-in list, or that of a file with one word a line; and those of languages.
    pub fn new(settings: &DirtyWords) -> Result<Self, FileError> {
        let words = match &settings.list {
            Some(path) => read(path)?,
            None => parse(BUILT_IN),
        };
        let lists = settings.lists.iter();
        let of_language = lists
            .map(|(language, path)| Ok((language.clone(), read(path)?)))
            .collect::<Result<_, FileError>>()?;
        Ok(Self { words, of_language, max_share: settings.max_share, min_count: settings.min_count })
    }
}

fn read(path: &Path) -> Result<BTreeSet<String>, FileError> {
    Ok(parse(&String::from_utf8_lossy(&atomic::read(path)?)))
}

fn parse(text: &str) -> BTreeSet<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim().to_lowercase());
    lines.filter(|w| !w.is_empty()).collect()
}

impl Filter for DirtyWordShare {
    fn step(&self) -> &'static str {
        "dirty words"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let more = self.of_language.get(&document.language);
        let (mut total, mut dirty, mut first) = (0u32, 0u32, None);
        for word in words(&document.text) {
            total += 1;
            let is_dirty =
                |word: &str| self.words.contains(word) || more.is_some_and(|more| more.contains(word));
            if is_dirty(word) || (word.chars().any(char::is_uppercase) && is_dirty(&word.to_lowercase())) {
                dirty += 1;
                first.get_or_insert(word.as_ptr() as usize - document.text.as_ptr() as usize);
            }
        }
        let share = dirty as f32 / total.max(1) as f32;
        document.values.insert("dirty_words".into(), share);
        if dirty < self.min_count || share <= self.max_share {
            return Verdict::Keep;
        }
        Verdict::Drop(Reason::new("dirty words", share, self.max_share, &document.text[first.unwrap_or(0)..]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn spam_goes_and_a_single_word_does_not_matter() {
        let filter = DirtyWordShare::new(&DirtyWords::default()).unwrap();
        let spam = "Watch hot XXX porn live. Free sexy nude cams tonight, best porn videos and nude girls.";
        assert!(matches!(filter.apply(&mut document(spam)), Verdict::Drop(_)));
        let article =
            "The court heard that the firm had sold porn to minors; the judge fined it and closed the case.";
        assert_eq!(filter.apply(&mut document(article)), Verdict::Keep);
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("en.txt");
        std::fs::write(&list, "minors # a test\nfirm\nFined\njudge\n").unwrap();
        let lists = BTreeMap::from([("en".to_string(), list)]);
        let strict = DirtyWordShare::new(&DirtyWords { lists, ..DirtyWords::default() }).unwrap();
        assert!(matches!(strict.apply(&mut document(article)), Verdict::Drop(_)));
        let mut other = document(article);
        other.language = "de".into();
        assert_eq!(strict.apply(&mut other), Verdict::Keep);
        let prose = include_str!("../../tests/prose.txt");
        assert_eq!(filter.apply(&mut document(prose)), Verdict::Keep);
    }
}

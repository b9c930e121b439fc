use super::{Filter, Reason, Verdict};
use crate::documents::Document;
use crate::language;
use std::collections::BTreeMap;

/// Finds a document's language and drops what has none for sure, or one that is not wanted.
pub struct LanguageFilter {
    /// Languages to keep; empty keeps all.
    pub languages: Vec<String>,
    /// Least probability.
    pub min_score: f32,
    /// The same for single languages.
    pub min_scores: BTreeMap<String, f32>,
}

impl Filter for LanguageFilter {
    fn step(&self) -> &'static str {
        "language"
    }

    fn apply(&self, document: &mut Document) -> Verdict {
        let Some((language, score)) = language::identify(&document.text) else {
            return Verdict::Drop(Reason::new("no language", 0.0, self.min_score, &document.text));
        };
        (document.language, document.language_score) = (language, score);
        let least = self.min_scores.get(&document.language).copied().unwrap_or(self.min_score);
        if score < least {
            return Verdict::Drop(Reason::new("uncertain language", score, least, &document.text));
        }
        if !self.languages.is_empty() && !self.languages.contains(&document.language) {
            let excerpt = format!("{}: {}", document.language, document.text);
            return Verdict::Drop(Reason::new("other language", score, least, &excerpt));
        }
        Verdict::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::super::document;
    use super::*;

    #[test]
    fn language_is_set_and_bounds_are_kept() {
        let filter =
            LanguageFilter { languages: vec!["de".into()], min_score: 0.5, min_scores: BTreeMap::new() };
        let mut german = document("Das Verzeichnis enthält alle Dateien, die beim Start gelesen werden.");
        assert_eq!(filter.apply(&mut german), Verdict::Keep);
        assert_eq!(german.language, "de");
        let strict = LanguageFilter { min_scores: BTreeMap::from([("de".into(), 0.9999)]), ..filter };
        assert!(matches!(strict.apply(&mut german), Verdict::Drop(r) if r.threshold == 0.9999));
        let filter = LanguageFilter { min_scores: BTreeMap::new(), ..strict };
        let rule = |text: &str| match filter.apply(&mut document(text)) {
            Verdict::Drop(reason) => reason.rule,
            Verdict::Keep => "keep".into(),
        };
        assert_eq!(rule("The folder holds all files that are read at the start."), "other language");
        assert_eq!(
            rule("merhaba kia ora svijete tere labas halló habari honua lume ahoj xin"),
            "uncertain language"
        );
    }
}

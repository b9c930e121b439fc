//! Filters: each looks at a document and keeps it, perhaps changed, or drops it with a reason. What is common to all,
//! counting and writing rejects, is done once by [`judge`].

mod block_list;
mod classifiers;
mod decontamination;
mod dirty_words;
mod divergence;
mod language;
mod length;
pub mod personal_data;
mod repetition;

pub use block_list::BlockList;
pub use classifiers::{Classifiers, domain_by_score};
pub use decontamination::DecontaminationFilter;
pub use dirty_words::DirtyWordShare;
pub use divergence::{Distribution, Measured, Thresholds, divergence};
pub use language::LanguageFilter;
pub use length::MinLength;
pub use personal_data::PersonalDataFilter;
pub use repetition::{Repetition, repeated_share};

use crate::documents::Document;
use crate::funnel::Funnel;
use crate::rejects::Reject;

/// Characters of an excerpt.
const EXCERPT: usize = 200;
/// Characters of a dropped document that are kept.
const BEGINNING: usize = 1500;

/// Why a document is dropped.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// Name of the rule, such as `repeated n-grams`.
    pub rule: String,
    /// What was measured.
    pub value: f32,
    /// The bound that it passed.
    pub threshold: f32,
    /// The text that triggered the rule.
    pub excerpt: String,
    /// The beginning of the document, personal data masked; empty if it has no text yet.
    pub text: String,
}

impl Reason {
    /// A reason; the excerpt is cut to a line's length.
    pub fn new(rule: &str, value: f32, threshold: f32, excerpt: &str) -> Self {
        let excerpt = excerpt.chars().take(EXCERPT).map(|c| if c == '\n' { ' ' } else { c }).collect();
        Self { rule: rule.to_string(), value, threshold, excerpt, text: String::new() }
    }

    /// The same with the beginning of the document, for people who look at rejects.
    pub fn with_text(mut self, text: &str) -> Self {
        let end = text.char_indices().nth(BEGINNING).map_or(text.len(), |(at, _)| at);
        self.text = personal_data::mask(&text[..end], &personal_data::find(&text[..end]));
        self
    }
}

/// A filter's answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The document stays.
    Keep,
    /// It goes.
    Drop(Reason),
}

/// A rule about a single document.
pub trait Filter: Sync {
    /// The step's name in the funnel.
    fn step(&self) -> &'static str;
    /// Keeps or drops; may change the text, for example mask parts of it.
    fn apply(&self, document: &mut Document) -> Verdict;
}

/// Asks the filters in turn until one drops the document; counts every answer.
pub fn judge(
    filters: &[&dyn Filter],
    mut document: Document,
    funnel: &mut Funnel,
) -> Result<Document, Reject> {
    for filter in filters {
        let bytes = document.text.len();
        match filter.apply(&mut document) {
            Verdict::Keep => funnel.pass(filter.step(), bytes, document.text.len()),
            Verdict::Drop(reason) => {
                funnel.drop(filter.step(), bytes, &reason.rule);
                let reason = reason.with_text(&document.text);
                return Err(Reject { url: document.url, reason, cluster: None });
            }
        }
    }
    Ok(document)
}

/// Words of a text: stretches of letters and digits. A character of a script without spaces is a word.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(char::is_alphanumeric)?;
        rest = &rest[start..];
        let first = rest.chars().next()?;
        let length = if is_unspaced(first) {
            first.len_utf8()
        } else {
            rest.find(|c: char| !continues_word(c)).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(length);
        rest = after;
        Some(word)
    })
}

/// Combining marks belong to the word: Hindi and Arabic write vowels with them.
fn continues_word(c: char) -> bool {
    (c.is_alphanumeric() && !is_unspaced(c))
        || matches!(c, '\u{300}'..='\u{36f}' | '\u{900}'..='\u{dff}' | '\u{64b}'..='\u{65f}')
}

/// Han, kana, Thai, Lao, Khmer, Burmese: scripts that do not set spaces between words.
pub fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}'
        | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
pub(crate) fn document(text: &str) -> Document {
    Document {
        id: "0".repeat(32),
        url: "https://www.site.example/page".into(),
        date: "2026-02-01T00:00:00Z".into(),
        title: "A page".into(),
        language: "en".into(),
        language_score: 0.9,
        domain: crate::documents::Domain::General,
        license: None,
        author: None,
        canonical: None,
        cluster: None,
        page_type: crate::extract::PageType::Article,
        source: "crawl.warc.gz".into(),
        text: text.into(),
        values: Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_scripts() {
        let of = |text: &'static str| words(text).collect::<Vec<_>>();
        assert_eq!(of("It's 3.5 GB, naïve!"), ["It", "s", "3", "5", "GB", "naïve"]);
        assert_eq!(of("日本語 text"), ["日", "本", "語", "text"]);
        assert_eq!(of("हिन्दी में"), ["हिन्दी", "में"]);
        assert_eq!(of(" ,."), Vec::<&str>::new());
    }

    #[test]
    fn the_first_drop_ends_the_row_and_is_counted_once() {
        let long = MinLength { min_chars: 5 };
        let longer = MinLength { min_chars: 50 };
        let mut funnel = Funnel::default();
        let reject = judge(&[&long, &longer, &long], document("ten letters"), &mut funnel).unwrap_err();
        assert_eq!(
            (reject.reason.rule.as_str(), reject.reason.value, reject.reason.threshold),
            ("too short", 10.0, 50.0)
        );
        assert_eq!(funnel.steps[0].documents_in, 2, "the third filter was not asked");
        assert_eq!(funnel.dropped_by("too short"), 1);
    }
}

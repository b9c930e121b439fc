//! The `[data]` table of a recipe.

use herd_run::SettingError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// How a crawl becomes documents. The defaults suit a general web crawl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// WARC files, as paths or globs.
    pub input: Vec<String>,
    /// Bytes of a page that are read; the rest of a larger one is left out.
    pub max_page_bytes: usize,
    /// Languages to keep (codes of lid.176); empty keeps all.
    pub languages: Vec<String>,
    /// Least probability of a document's language.
    pub min_language_score: f32,
    /// Files with one registrable domain a line to leave out; `#` begins a comment.
    pub blocked_domains: Vec<PathBuf>,
    /// Least visible characters of a document; Chinese, Japanese and Thai count threefold.
    pub min_chars: usize,
    /// Near-duplicate documents (SPEC DATA-3).
    pub near_duplicates: NearDuplicates,
    /// Repeated lines (SPEC DATA-3).
    pub lines: Lines,
    /// Greatest share of a document's characters in word n-grams that occur before in it (SPEC DATA-4).
    pub max_repeated_share: f32,
    /// Words per n-gram for that share.
    pub repeated_ngram: usize,
    /// Unwanted words (SPEC DATA-4).
    pub dirty_words: DirtyWords,
    /// Outlier tokens (SPEC DATA-4).
    pub divergence: Divergence,
    /// Personal data (SPEC DATA-1).
    pub personal_data: PersonalData,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            max_page_bytes: 50_000_000,
            languages: Vec::new(),
            min_language_score: 0.4,
            blocked_domains: Vec::new(),
            min_chars: 200,
            near_duplicates: NearDuplicates::default(),
            lines: Lines::default(),
            max_repeated_share: 0.5,
            repeated_ngram: 5,
            dirty_words: DirtyWords::default(),
            divergence: Divergence::default(),
            personal_data: PersonalData::default(),
        }
    }
}

/// MinHash with banded locality-sensitive hashing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NearDuplicates {
    /// Words per shingle.
    pub shingle: usize,
    /// Bands; two documents are candidates if any band agrees.
    pub bands: usize,
    /// Hashes per band.
    pub rows: usize,
    /// Least Jaccard similarity of the shingles of duplicates.
    pub similarity: f32,
    /// Whether candidates are compared exactly; if not, an agreeing band is enough.
    pub verify: bool,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Self { shingle: 5, bands: 20, rows: 6, similarity: 0.7, verify: true }
    }
}

/// ccNet's rule: a line that occurs often within a bucket of documents of its language is boilerplate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lines {
    /// Occurrences that are still kept.
    pub max_occurrences: u32,
    /// Documents per bucket.
    pub bucket_documents: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { max_occurrences: 6, bucket_documents: 30_000_000 }
    }
}

/// Words of adult spam, counted to find sites that no block list has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirtyWords {
    /// A file with one word a line in place of the list that is built in.
    pub list: Option<PathBuf>,
    /// Greatest share of a document's words.
    pub max_share: f32,
    /// Fewer than this many are never a reason.
    pub min_count: u32,
}

impl Default for DirtyWords {
    fn default() -> Self {
        Self { list: None, max_share: 0.01, min_count: 4 }
    }
}

/// Kullback-Leibler divergence of a document's token distribution from that of all documents of its language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Divergence {
    /// A document is an outlier beyond the median plus this many times the distance from median to upper quartile,
    /// among documents of its language and about its length.
    pub max_spread: f32,
    /// Fewer documents than this are no sample; nothing is dropped then.
    pub min_documents: usize,
}

impl Default for Divergence {
    fn default() -> Self {
        Self { max_spread: 6.0, min_documents: 20 }
    }
}

/// What happens to e-mail addresses, numbers of telephones, cards, accounts and persons.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PersonalData {
    /// Whether they are replaced by a placeholder such as `<EMAIL>`.
    pub mask: bool,
    /// A document with more of them per 100 words is dropped.
    pub max_per_100_words: f32,
    /// Fewer than this many are never a reason.
    pub min_count: u32,
}

impl Default for PersonalData {
    fn default() -> Self {
        Self { mask: true, max_per_100_words: 4.0, min_count: 10 }
    }
}

impl Settings {
    /// The archives that `input` names, in order, each once. A pattern that matches nothing is an error.
    pub fn archives(&self) -> Result<Vec<PathBuf>, SettingError> {
        let mut files = BTreeSet::new();
        for pattern in &self.input {
            let found = glob::glob(pattern)
                .map_err(|e| SettingError::new("input", format!("'{pattern}' is no pattern: {e}")))?;
            let before = files.len();
            let mut any = false;
            for file in found {
                let file = file.map_err(|e| SettingError::new("input", format!("'{pattern}': {e}")))?;
                any = true;
                if file.is_file() {
                    files.insert(file);
                }
            }
            if !any || (files.len() == before && before == 0) {
                let here = std::env::current_dir().unwrap_or_default();
                let problem = format!("'{pattern}' matches no file (looked from {})", here.display());
                return Err(SettingError::new("input", problem));
            }
        }
        Ok(files.into_iter().collect())
    }

    /// Checks what types cannot express.
    pub fn validate(&self) -> Result<(), SettingError> {
        let shares = [
            ("min_language_score", self.min_language_score),
            ("max_repeated_share", self.max_repeated_share),
            ("near_duplicates.similarity", self.near_duplicates.similarity),
            ("dirty_words.max_share", self.dirty_words.max_share),
        ];
        for (key, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(SettingError::new(key, format!("{value} is no share; choose 0 to 1")));
            }
        }
        let counts = [
            ("max_page_bytes", self.max_page_bytes),
            ("repeated_ngram", self.repeated_ngram),
            ("near_duplicates.shingle", self.near_duplicates.shingle),
            ("near_duplicates.bands", self.near_duplicates.bands),
            ("near_duplicates.rows", self.near_duplicates.rows),
            ("lines.max_occurrences", self.lines.max_occurrences as usize),
            ("lines.bucket_documents", self.lines.bucket_documents as usize),
        ];
        for (key, value) in counts {
            if value == 0 {
                return Err(SettingError::new(key, "must be at least 1"));
            }
        }
        if self.input.is_empty() {
            return Err(SettingError::new(
                "input",
                "names no file; give WARC files or globs, such as [\"crawl/*.warc.gz\"]",
            ));
        }
        if self.divergence.max_spread <= 0.0 {
            return Err(SettingError::new("divergence.max_spread", "must be above 0"));
        }
        Ok(())
    }
}

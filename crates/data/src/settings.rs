//! The `[data]` table of a recipe.

use crate::documents::Domain;
use crate::error::Error;
use crate::{input, storage};
use herd_run::SettingError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How a crawl becomes documents. The defaults suit a general web crawl.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// WARC files, or documents as Parquet or JSON Lines (`text`, and `url`, `date`, `title` if they are known): paths,
    /// addresses of object stores, or globs of either.
    pub input: Vec<String>,
    /// Bytes of a page that are read; the rest of a larger one is left out.
    pub max_page_bytes: usize,
    /// Languages to keep (codes of lid.176); empty keeps all.
    pub languages: Vec<String>,
    /// Least probability of a document's language.
    pub min_language_score: f32,
    /// The same for single languages, in place of `min_language_score`.
    pub min_language_scores: BTreeMap<String, f32>,
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
    /// The measures of repetition of Gopher, with their bounds; absent, and they are not taken.
    pub gopher: Option<Gopher>,
    /// Unwanted words (SPEC DATA-4).
    pub dirty_words: DirtyWords,
    /// Outlier tokens (SPEC DATA-4).
    pub divergence: Divergence,
    /// Personal data (SPEC DATA-1).
    pub personal_data: PersonalData,
    /// Models that score documents (SPEC DATA-5, DATA-6).
    pub classifiers: Vec<ClassifierSettings>,
    /// Benchmarks whose examples are not to be trained on (SPEC EVAL-4).
    pub decontamination: Decontamination,
    /// How the work is cut; the result does not depend on it.
    pub tasks: Tasks,
}

/// How a stage is cut into tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tasks {
    /// Bytes of input that one task reads; larger files are shared by several.
    pub split_bytes: u64,
    /// Tasks of a reduction; 0 for one for every four splits, at most 1024.
    pub partitions: usize,
    /// One file of all documents and one of all rejects. Without it, `documents.parquet` and `rejects.parquet` are folders
    /// with a file of each split, and no task reads all of them.
    pub one_file: bool,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { split_bytes: 256 << 20, partitions: 0, one_file: true }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            input: Vec::new(),
            max_page_bytes: 50_000_000,
            languages: Vec::new(),
            min_language_score: 0.4,
            min_language_scores: BTreeMap::new(),
            blocked_domains: Vec::new(),
            min_chars: 200,
            near_duplicates: NearDuplicates::default(),
            lines: Lines::default(),
            max_repeated_share: 0.5,
            repeated_ngram: 5,
            gopher: None,
            dirty_words: DirtyWords::default(),
            divergence: Divergence::default(),
            personal_data: PersonalData::default(),
            classifiers: Vec::new(),
            decontamination: Decontamination::default(),
            tasks: Tasks::default(),
        }
    }
}

/// Documents that hold much of a benchmark's example go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Decontamination {
    /// Words per n-gram.
    pub ngram: usize,
    /// A document that holds a greater share of an example's words in such n-grams is dropped; 1 drops none.
    pub max_share: f32,
    /// The benchmarks; none, and nothing is looked for.
    pub benchmarks: Vec<Benchmark>,
}

impl Default for Decontamination {
    fn default() -> Self {
        Self { ngram: 8, max_share: 0.5, benchmarks: Vec::new() }
    }
}

/// The files of a benchmark.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// Its name in reports.
    pub name: String,
    /// Files as paths or globs: JSON lists, JSON Lines, or one example a line.
    pub files: Vec<String>,
    /// Fields of a JSON example that are looked for; empty takes all its texts.
    #[serde(default)]
    pub fields: Vec<String>,
}

impl Benchmark {
    /// The files, in order.
    ///
    /// # Errors
    ///
    /// A pattern that is none, or matches no file.
    pub fn paths(&self) -> Result<Vec<PathBuf>, SettingError> {
        let mut all = Vec::new();
        for pattern in &self.files {
            let key = "decontamination.benchmarks";
            let found = glob::glob(pattern)
                .map_err(|e| SettingError::new(key, format!("'{pattern}' is no pattern: {e}")))?;
            let mut files: Vec<PathBuf> = found.flatten().filter(|path| path.is_file()).collect();
            if files.is_empty() {
                return Err(SettingError::new(key, format!("{}: '{pattern}' matches no file", self.name)));
            }
            files.sort();
            all.extend(files);
        }
        Ok(all)
    }
}

/// A model that scores documents: one label of a classifier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierSettings {
    /// Name of the column, and of the rule.
    pub name: String,
    /// The model that `herd data train-classifier` writes: fastText's `.bin`, or the folder of a Transformer.
    pub model: PathBuf,
    /// The label whose probability is the score.
    pub label: String,
    /// Documents that score less are dropped; absent drops none.
    #[serde(default)]
    pub min_score: Option<f32>,
    /// Documents that score more are dropped; absent drops none.
    #[serde(default)]
    pub max_score: Option<f32>,
    /// Languages that the model knows; documents of others have no score and stay. Empty: all.
    #[serde(default)]
    pub languages: Vec<String>,
    /// The domain of documents that score at least `domain_score`, whatever the text's features say.
    #[serde(default)]
    pub domain: Option<Domain>,
    /// For `domain`.
    #[serde(default = "half")]
    pub domain_score: f32,
}

fn half() -> f32 {
    0.5
}

impl ClassifierSettings {
    fn validate(&self, before: &[Self]) -> Result<(), SettingError> {
        let bounds = [("min_score", self.min_score), ("max_score", self.max_score)];
        let bounds = bounds.into_iter().chain([("domain_score", Some(self.domain_score))]);
        for (key, bound) in bounds {
            if bound.is_some_and(|bound| !(0.0..=1.0).contains(&bound)) {
                return Err(SettingError::new(key, "is no probability; choose 0 to 1"));
            }
        }
        let word = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !word {
            return Err(SettingError::new("name", "names a column: letters, digits and `_`"));
        }
        if before.iter().any(|other| other.name == self.name) || COLUMNS.contains(&self.name.as_str()) {
            return Err(SettingError::new("name", format!("'{}' is the name of another column", self.name)));
        }
        Ok(())
    }
}

/// Columns that documents have without any classifier.
const COLUMNS: [&str; 34] = [
    "id",
    "url",
    "date",
    "title",
    "language",
    "language_score",
    "domain",
    "license",
    "source",
    "author",
    "canonical",
    "cluster",
    "cluster_size",
    "page_type",
    "text",
    "characters",
    "contamination",
    "dirty_words",
    "divergence",
    "personal_data",
    "repeated_ngrams",
    "duplicate_lines",
    "duplicate_line_characters",
    "duplicate_paragraphs",
    "duplicate_paragraph_characters",
    "top_2gram",
    "top_3gram",
    "top_4gram",
    "duplicate_5grams",
    "duplicate_6grams",
    "duplicate_7grams",
    "duplicate_8grams",
    "duplicate_9grams",
    "duplicate_10grams",
];

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
    /// The classifier whose score decides which document of a cluster stays; absent, or if equal, the longest, then the
    /// newest.
    pub quality: Option<String>,
}

impl Default for NearDuplicates {
    fn default() -> Self {
        Self { shingle: 5, bands: 20, rows: 6, similarity: 0.7, verify: true, quality: None }
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

/// Bounds on repetition within a document (Rae et al., arXiv 2112.11446, table A1); each is the greatest share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gopher {
    /// Lines that came before.
    pub duplicate_lines: f32,
    /// Characters in such lines.
    pub duplicate_line_characters: f32,
    /// Paragraphs that came before.
    pub duplicate_paragraphs: f32,
    /// Characters in such paragraphs.
    pub duplicate_paragraph_characters: f32,
    /// Characters in the n-gram that takes most of them, for 2, 3 and 4 words.
    pub top_ngrams: [f32; 3],
    /// Characters in n-grams that came before, for 5 to 10 words.
    pub duplicate_ngrams: [f32; 6],
}

impl Default for Gopher {
    fn default() -> Self {
        Self {
            duplicate_lines: 0.30,
            duplicate_line_characters: 0.20,
            duplicate_paragraphs: 0.30,
            duplicate_paragraph_characters: 0.20,
            top_ngrams: [0.20, 0.18, 0.16],
            duplicate_ngrams: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        }
    }
}

impl Gopher {
    fn validate(&self) -> Result<(), SettingError> {
        let named = [
            ("duplicate_lines", self.duplicate_lines),
            ("duplicate_line_characters", self.duplicate_line_characters),
            ("duplicate_paragraphs", self.duplicate_paragraphs),
            ("duplicate_paragraph_characters", self.duplicate_paragraph_characters),
        ];
        let top = self.top_ngrams.map(|bound| ("top_ngrams", bound));
        let duplicate = self.duplicate_ngrams.map(|bound| ("duplicate_ngrams", bound));
        match named.into_iter().chain(top).chain(duplicate).find(|(_, b)| !(0.0..=1.0).contains(b)) {
            Some((key, bound)) => Err(SettingError::new(key, format!("{bound} is no share; choose 0 to 1"))),
            None => Ok(()),
        }
    }
}

/// Words of adult spam, counted to find sites that no block list has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DirtyWords {
    /// A file with one word a line in place of the list that is built in.
    pub list: Option<PathBuf>,
    /// Further lists, each for the documents of one language.
    pub lists: BTreeMap<String, PathBuf>,
    /// Greatest share of a document's words.
    pub max_share: f32,
    /// Fewer than this many are never a reason.
    pub min_count: u32,
}

impl Default for DirtyWords {
    fn default() -> Self {
        Self { list: None, lists: BTreeMap::new(), max_share: 0.01, min_count: 4 }
    }
}

/// Kullback-Leibler divergence of a document's token distribution from that of all documents of its language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Divergence {
    /// A document is an outlier beyond the median plus this many times the distance from median to upper quartile,
    /// among documents of its language and about its length.
    pub max_spread: f32,
    /// In place of `max_spread`: the share of the documents of a language and about a length that stays.
    pub max_quantile: Option<f32>,
    /// Fewer documents than this are no sample; nothing is dropped then.
    pub min_documents: usize,
}

impl Default for Divergence {
    fn default() -> Self {
        Self { max_spread: 6.0, max_quantile: None, min_documents: 20 }
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
    /// The files of this machine that `input` names, in order, each once.
    ///
    /// # Errors
    ///
    /// A pattern that matches nothing.
    pub fn archives(&self) -> Result<Vec<PathBuf>, Error> {
        let files = input::find(&self.input)?.into_iter();
        Ok(files.filter(|(file, _)| !storage::is_remote(file)).map(|(file, _)| PathBuf::from(file)).collect())
    }

    /// Checks what types cannot express.
    pub fn validate(&self) -> Result<(), SettingError> {
        let shares = [
            ("min_language_score", self.min_language_score),
            ("max_repeated_share", self.max_repeated_share),
            ("near_duplicates.similarity", self.near_duplicates.similarity),
            ("dirty_words.max_share", self.dirty_words.max_share),
            ("decontamination.max_share", self.decontamination.max_share),
        ];
        for (key, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(SettingError::new(key, format!("{value} is no share; choose 0 to 1")));
            }
        }
        let counts = [
            ("max_page_bytes", self.max_page_bytes),
            ("repeated_ngram", self.repeated_ngram),
            ("decontamination.ngram", self.decontamination.ngram),
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
        if self.tasks.split_bytes < 1 << 16 {
            return Err(SettingError::new("tasks.split_bytes", "must be at least 65536"));
        }
        if let Some(name) = &self.near_duplicates.quality
            && !self.classifiers.iter().any(|classifier| classifier.name == *name)
        {
            let problem = format!("'{name}' is no classifier of this recipe");
            return Err(SettingError::new("near_duplicates.quality", problem));
        }
        if self.input.is_empty() {
            return Err(SettingError::new(
                "input",
                "names no file; give WARC files or globs, such as [\"crawl/*.warc.gz\"]",
            ));
        }
        if let Some(gopher) = &self.gopher {
            gopher.validate().map_err(|e| e.within("gopher"))?;
        }
        let mut scores = self.min_language_scores.iter();
        if let Some((language, score)) = scores.find(|(_, score)| !(0.0..=1.0).contains(*score)) {
            let problem = format!("{score} of {language} is no probability; choose 0 to 1");
            return Err(SettingError::new("min_language_scores", problem));
        }
        if self.divergence.max_quantile.is_some_and(|q| !(0.5..=1.0).contains(&q)) {
            return Err(SettingError::new("divergence.max_quantile", "must be 0.5 to 1"));
        }
        for (n, classifier) in self.classifiers.iter().enumerate() {
            classifier.validate(&self.classifiers[..n]).map_err(|e| e.within(&format!("classifiers.{n}")))?;
        }
        if self.divergence.max_spread <= 0.0 {
            return Err(SettingError::new("divergence.max_spread", "must be above 0"));
        }
        Ok(())
    }
}

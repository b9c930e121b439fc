//! Contamination of a corpus by benchmarks (SPEC EVAL-4): an example is contaminated to the share of its words that lie
//! in 8-grams that occur in the corpus. Documents that hold much of an example can be dropped; what is left is reported
//! for each benchmark.
//!
//! Words instead of tokens make the measure the same for every tokenizer; case and punctuation do not matter.

use crate::error::Error;
use crate::filters::words;
use crate::hash;
use crate::settings::Decontamination;
use crate::storage::Folder;
use herd_run::atomic;
use herd_run::{Context, SettingError};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// One example of a benchmark.
#[derive(Debug)]
struct Example {
    benchmark: usize,
    /// Number of the n-gram that begins at each word.
    grams: Vec<u32>,
    /// Its words, for people.
    beginning: String,
}

/// The n-grams of all examples.
pub struct Benchmarks {
    ngram: usize,
    names: Vec<String>,
    /// Examples with fewer words than an n-gram, by benchmark; they cannot be looked for.
    short: Vec<u64>,
    examples: Vec<Example>,
    numbers: HashMap<u64, u32, hash::Identity>,
    /// Examples that hold an n-gram.
    holders: Vec<Vec<u32>>,
}

/// The contamination of a benchmark by a corpus: an entry of `contamination.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Contamination {
    /// The benchmark.
    pub benchmark: String,
    /// Examples that are long enough.
    pub examples: u64,
    /// Examples that are too short to be looked for.
    pub too_short: u64,
    /// Mean share of an example's words that lie in n-grams of the corpus.
    pub mean_share: f64,
    /// Examples of which at least that share does.
    pub contaminated: Vec<(f32, u64)>,
    /// The most contaminated examples: their share and their beginning.
    pub worst: Vec<(f32, String)>,
}

/// Shares that are told.
const THRESHOLDS: [f32; 5] = [0.1, 0.3, 0.5, 0.8, 1.0];
/// Examples that are told.
const WORST: usize = 5;

/// The most that a document holds of an example.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap<'a> {
    /// Share of the example's words.
    pub share: f32,
    /// The benchmark.
    pub benchmark: &'a str,
    /// The beginning of the example.
    pub example: &'a str,
}

impl Benchmarks {
    /// Reads the benchmarks. `None` if there are none.
    ///
    /// # Errors
    ///
    /// A glob that matches nothing, a file that cannot be read, or one without examples.
    pub fn load(settings: &Decontamination) -> Result<Option<Self>, Error> {
        if settings.benchmarks.is_empty() {
            return Ok(None);
        }
        let mut all = Self {
            ngram: settings.ngram,
            names: settings.benchmarks.iter().map(|b| b.name.clone()).collect(),
            short: vec![0; settings.benchmarks.len()],
            examples: Vec::new(),
            numbers: HashMap::default(),
            holders: Vec::new(),
        };
        for (n, benchmark) in settings.benchmarks.iter().enumerate() {
            for file in benchmark.paths()? {
                let texts = examples(&file, &benchmark.fields)?;
                if texts.is_empty() {
                    let fields = benchmark.fields.join(", ");
                    let problem = format!("{}: no text of an example (fields: {fields})", file.display());
                    return Err(SettingError::new("decontamination.benchmarks", problem).into());
                }
                texts.iter().for_each(|text| all.add(n, text));
            }
        }
        Ok(Some(all))
    }

    fn add(&mut self, benchmark: usize, text: &str) {
        let grams: Vec<u64> = grams(text, self.ngram);
        if grams.is_empty() {
            self.short[benchmark] += 1;
            return;
        }
        let example = self.examples.len() as u32;
        let grams = grams
            .into_iter()
            .map(|gram| {
                let next = self.holders.len() as u32;
                let number = *self.numbers.entry(gram).or_insert(next);
                if number == next {
                    self.holders.push(Vec::new());
                }
                let holders = &mut self.holders[number as usize];
                if holders.last() != Some(&example) {
                    holders.push(example);
                }
                number
            })
            .collect();
        let beginning = text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.examples.push(Example { benchmark, grams, beginning });
    }

    /// Numbers of the n-grams that a text holds, sorted.
    pub(crate) fn find(&self, text: &str) -> Vec<u32> {
        let grams = grams(text, self.ngram).into_iter();
        let mut found: Vec<u32> = grams.filter_map(|gram| self.numbers.get(&gram).copied()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Share of an example's words that lie in n-grams of which `has` is true.
    fn share(&self, example: &Example, has: impl Fn(u32) -> bool) -> f32 {
        let (mut covered, mut covered_to) = (0, 0);
        for (at, gram) in example.grams.iter().enumerate() {
            if has(*gram) {
                covered += at + self.ngram - covered_to.max(at);
                covered_to = at + self.ngram;
            }
        }
        covered as f32 / (example.grams.len() + self.ngram - 1) as f32
    }

    /// The example of which a text holds the greatest share; `None` if it shares no n-gram with any.
    pub fn overlap(&self, text: &str) -> Option<Overlap<'_>> {
        let found = self.find(text);
        let mut candidates: Vec<u32> =
            found.iter().flat_map(|gram| self.holders[*gram as usize].iter().copied()).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let mut best: Option<Overlap> = None;
        for number in candidates {
            let example = &self.examples[number as usize];
            let share = self.share(example, |gram| found.binary_search(&gram).is_ok());
            if best.is_none_or(|best| share > best.share) {
                let benchmark = &self.names[example.benchmark];
                best = Some(Overlap { share, benchmark, example: &example.beginning });
            }
        }
        best
    }

    /// What a corpus holds of each benchmark, from the numbers of the n-grams that its documents hold.
    pub fn report(&self, grams: &[u32]) -> Vec<Contamination> {
        let mut there = vec![false; self.holders.len()];
        grams.iter().for_each(|gram| there[*gram as usize] = true);
        let mut shares: Vec<Vec<(f32, &str)>> = vec![Vec::new(); self.names.len()];
        for example in &self.examples {
            let share = self.share(example, |gram| there[gram as usize]);
            shares[example.benchmark].push((share, &example.beginning));
        }
        let benchmarks = self.names.iter().zip(&self.short).zip(shares);
        benchmarks.map(|((name, short), shares)| describe(name, *short, shares)).collect()
    }
}

fn describe(name: &str, too_short: u64, mut shares: Vec<(f32, &str)>) -> Contamination {
    let examples = shares.len() as u64;
    let mean_share = shares.iter().map(|s| s.0 as f64).sum::<f64>() / examples.max(1) as f64;
    let at_least = |t: f32| (t, shares.iter().filter(|s| s.0 >= t).count() as u64);
    let contaminated = THRESHOLDS.map(at_least).to_vec();
    shares.sort_by(|a, b| b.0.total_cmp(&a.0));
    let worst = shares.into_iter().take(WORST).filter(|s| s.0 > 0.0).map(|(s, text)| (s, text.to_string()));
    Contamination {
        benchmark: name.to_string(),
        examples,
        too_short,
        mean_share,
        contaminated,
        worst: worst.collect(),
    }
}

/// Writes the report of a stage.
pub(crate) fn write_report(
    benchmarks: &Benchmarks,
    grams: &[u32],
    folder: &Folder,
    ctx: &Context,
) -> Result<(), Error> {
    let report = benchmarks.report(grams);
    for entry in &report {
        let half = entry.contaminated.iter().find(|(t, _)| *t == 0.5).map_or(0, |(_, n)| *n);
        ctx.progress.detail(format!(
            "{}: of {} examples {half} lie by half or more in {}-grams of the documents",
            entry.benchmark, entry.examples, benchmarks.ngram
        ));
    }
    Ok(folder.write_json("contamination.json", &report)?)
}

/// Hashes of the word n-grams of a text; those of adjacent words only.
fn grams(text: &str, n: usize) -> Vec<u64> {
    let hashes: Vec<u64> = words(text).map(hash::of_word).collect();
    hashes.windows(n).map(hash::of_sequence).collect()
}

/// The texts of a benchmark's examples: elements of a JSON list (also within an object), lines of JSON, or lines.
fn examples(file: &Path, fields: &[String]) -> Result<Vec<String>, Error> {
    let text = String::from_utf8_lossy(&atomic::read(file)?).into_owned();
    let values: Vec<Value> = match serde_json::from_str(&text) {
        Ok(Value::Array(items)) => items,
        Ok(Value::Object(map)) => {
            let lists: Vec<Value> = map.values().filter(|v| v.is_array()).cloned().collect();
            match lists.len() {
                0 => vec![Value::Object(map)],
                _ => lists.into_iter().flat_map(|v| v.as_array().cloned().unwrap_or_default()).collect(),
            }
        }
        _ => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            lines.map(|l| serde_json::from_str(l).unwrap_or_else(|_| Value::from(l))).collect()
        }
    };
    Ok(values.iter().map(|value| text_of(value, fields)).filter(|text| !text.is_empty()).collect())
}

fn text_of(value: &Value, fields: &[String]) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !fields.is_empty() => {
            fields.iter().filter_map(|f| map.get(f)).for_each(|v| strings(v, &mut out));
        }
        other => strings(other, &mut out),
    }
    out
}

fn strings(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push_str(if out.is_empty() { "" } else { "\n" });
            out.push_str(text);
        }
        Value::Array(items) => items.iter().for_each(|v| strings(v, out)),
        Value::Object(map) => map.values().for_each(|v| strings(v, out)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::Document;
    use crate::filters::document;
    use crate::settings::Benchmark;

    const QUESTION: &str =
        "Janet keeps sixteen ducks, eats three eggs every morning and sells the others at the market";

    fn settings(folder: &Path) -> Decontamination {
        let lines = [
            format!("{{\"question\":\"{QUESTION}\",\"answer\":\"18\"}}"),
            "{\"question\":\"What is two and two?\",\"answer\":\"four\"}".to_string(),
            "{\"question\":\"A train leaves the old station at noon and reaches the coast before dusk on the same day\"}".to_string(),
        ];
        std::fs::write(folder.join("a.jsonl"), lines.join("\n")).unwrap();
        std::fs::write(folder.join("b.json"), "{\"canary\":\"x\",\"examples\":[{\"input\":\"one two three four five six seven eight nine ten\"}]}").unwrap();
        let benchmark = |name: &str, file: &str, fields: &[&str]| Benchmark {
            name: name.into(),
            files: vec![folder.join(file).display().to_string()],
            fields: fields.iter().map(|f| f.to_string()).collect(),
        };
        Decontamination {
            benchmarks: vec![benchmark("a", "a.jsonl", &["question"]), benchmark("b", "b.json", &[])],
            ..Decontamination::default()
        }
    }

    #[test]
    fn a_document_that_holds_an_example_is_found_in_any_case_and_punctuation() {
        let dir = tempfile::tempdir().unwrap();
        let benchmarks = Benchmarks::load(&settings(dir.path())).unwrap().unwrap();
        let page = format!("A quiz!\n{}\nAnswer below.", QUESTION.to_uppercase().replace(' ', "  "));
        let overlap = benchmarks.overlap(&page).unwrap();
        assert_eq!((overlap.share, overlap.benchmark), (1.0, "a"));
        assert_eq!(benchmarks.overlap("What is two and two? It is four, as every child knows."), None);
        // Nine of the sixteen words of the example, in order.
        let part: Vec<&str> = QUESTION.split(' ').take(9).collect();
        let overlap = benchmarks.overlap(&format!("he says {} today", part.join(" "))).unwrap();
        assert_eq!(overlap.share, 9.0 / 16.0);
        // Seven words are no 8-gram.
        assert_eq!(benchmarks.overlap(&part[..7].join(" ")), None);
    }

    #[test]
    fn the_report_counts_what_the_whole_corpus_holds() {
        let dir = tempfile::tempdir().unwrap();
        let benchmarks = Benchmarks::load(&settings(dir.path())).unwrap().unwrap();
        let words: Vec<&str> = QUESTION.split(' ').collect();
        // Each document has half of the example, both together have it all but for one word.
        let texts = [words[..8].join(" "), words[8..].join(" "), "one two three".into()];
        let grams: Vec<u32> = texts.iter().flat_map(|text| benchmarks.find(text)).collect();
        let report = benchmarks.report(&grams);
        assert_eq!((report[0].benchmark.as_str(), report[0].examples, report[0].too_short), ("a", 2, 1));
        assert_eq!(report[0].contaminated, [(0.1, 1), (0.3, 1), (0.5, 1), (0.8, 1), (1.0, 1)]);
        assert_eq!(report[0].worst, [(1.0, QUESTION.to_string())]);
        assert_eq!((report[1].examples, report[1].mean_share), (1, 0.0));
    }

    #[test]
    fn the_filter_drops_and_names_the_benchmark() {
        use crate::filters::{DecontaminationFilter, Filter, Verdict};
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path());
        let filter = DecontaminationFilter::load(&settings).unwrap().unwrap();
        let mut page: Document = document(&format!("Before. {QUESTION}. After."));
        let Verdict::Drop(reason) = filter.apply(&mut page) else { panic!("kept") };
        assert_eq!((reason.rule.as_str(), reason.value), ("holds an example of a", 1.0));
        assert_eq!(reason.excerpt, QUESTION);
        let mut clean = document("A text of its own about ducks and eggs.");
        assert_eq!(filter.apply(&mut clean), Verdict::Keep);
        assert_eq!(clean.values["contamination"], 0.0);

        let mut wrong = settings.clone();
        wrong.benchmarks[0].fields = vec!["qestion".into()];
        let message = DecontaminationFilter::load(&wrong).err().unwrap().to_string();
        assert!(message.contains("a.jsonl") && message.contains("qestion"), "{message}");
    }
}

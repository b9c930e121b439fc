//! Counts, quantiles and histograms of any column of a file, for all rows or by the values of another column.

use crate::documents::DocumentsError;
use crate::sample::Condition;
use crate::table;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Groups that a column of numbers is cut into when another column is looked at by it.
const PARTS: usize = 10;
/// Distinct numbers that are groups as they are.
const FEW: usize = 16;
/// Most frequent values that are told.
const TOP: usize = 10;
/// The quantiles that are told.
pub const QUANTILES: [f64; 7] = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99];

/// What is in a column, of the rows of one group.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// The column.
    pub column: String,
    /// The group: a value of the other column, or a range of its numbers. Absent if all rows are one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Rows.
    pub rows: u64,
    /// Rows without a value.
    pub absent: u64,
    /// Distinct values.
    pub distinct: u64,
    /// Of numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<Numbers>,
    /// The most frequent values of a column of words, with their counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frequent: Vec<(String, u64)>,
}

/// Numbers described.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Numbers {
    /// What is counted: `value`, or `characters` of texts.
    pub of: &'static str,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
    /// The smallest.
    pub min: f64,
    /// Those of [`QUANTILES`], the nearest value each.
    pub quantiles: [f64; 7],
    /// The greatest.
    pub max: f64,
    /// Equal ranges from the smallest to the greatest: lower bound and count.
    pub histogram: Vec<(f64, u64)>,
}

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Columns; none for all.
    pub columns: Vec<String>,
    /// The column to group by.
    pub by: Option<String>,
    /// Rows that count.
    pub conditions: Vec<Condition>,
    /// Ranges of a histogram.
    pub bins: usize,
}

/// Values of one column in one group.
#[derive(Default)]
struct Gathered {
    rows: u64,
    numbers: Vec<f64>,
    words: BTreeMap<String, u64>,
    lengths: Vec<f64>,
}

impl Gathered {
    fn add(&mut self, value: Option<&Value>) {
        self.rows += 1;
        match value {
            Some(Value::Number(n)) => self.numbers.extend(n.as_f64()),
            Some(Value::String(text)) => {
                self.lengths.push(text.chars().count() as f64);
                // Long texts are all different; their hash is enough to count them.
                let word = match text.len() {
                    0..=200 => text.clone(),
                    _ => format!("{:016x}…", crate::hash::of_bytes(text.as_bytes())),
                };
                *self.words.entry(word).or_default() += 1;
            }
            None | Some(Value::Null) => {}
            Some(other) => *self.words.entry(other.to_string()).or_default() += 1,
        }
    }

    fn describe(mut self, column: &str, group: Option<String>, bins: usize) -> Column {
        let words: u64 = self.words.values().sum();
        self.numbers.sort_by(f64::total_cmp);
        let absent = self.rows - words - self.numbers.len() as u64;
        let distinct = self.words.len() as u64 + self.numbers.chunk_by(|a, b| a == b).count() as u64;
        let numbers = match self.numbers.is_empty() {
            true => {
                self.lengths.sort_by(f64::total_cmp);
                describe(&self.lengths, "characters", bins)
            }
            false => describe(&self.numbers, "value", bins),
        };
        let mut frequent: Vec<(String, u64)> = self.words.into_iter().filter(|(_, n)| *n > 1).collect();
        frequent.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        frequent.truncate(TOP);
        Column { column: column.to_string(), group, rows: self.rows, absent, distinct, numbers, frequent }
    }
}

/// Describes sorted numbers.
fn describe(sorted: &[f64], of: &'static str, bins: usize) -> Option<Numbers> {
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let count = sorted.len() as f64;
    let mean = sorted.iter().sum::<f64>() / count;
    let variance = sorted.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let quantile = |q: f64| sorted[((count - 1.0) * q).round() as usize];
    let bins = if min == max { 1 } else { bins.max(1) };
    let width = (max - min) / bins as f64;
    let mut counts = vec![0; bins];
    for x in sorted {
        let bin = if width > 0.0 { ((x - min) / width) as usize } else { 0 };
        counts[bin.min(bins - 1)] += 1;
    }
    let histogram = counts.into_iter().enumerate().map(|(n, c)| (min + n as f64 * width, c)).collect();
    Some(Numbers {
        of,
        mean,
        deviation: variance.sqrt(),
        min,
        quantiles: QUANTILES.map(quantile),
        max,
        histogram,
    })
}

/// How the values of the other column become groups.
enum Groups {
    One,
    ByValue(String),
    /// Lower bounds of ranges, rising.
    ByRange(String, Vec<f64>),
}

impl Groups {
    fn find(path: &Path, by: Option<&str>) -> Result<Self, DocumentsError> {
        let Some(by) = by else { return Ok(Self::One) };
        let mut numbers = Vec::new();
        for row in table::open(path, Some(&[by.to_string()]))? {
            numbers.extend(row?.get(by).and_then(Value::as_f64));
        }
        numbers.sort_by(f64::total_cmp);
        if numbers.chunk_by(|a, b| a == b).count() <= FEW {
            return Ok(Self::ByValue(by.to_string()));
        }
        let mut bounds: Vec<f64> = (0..PARTS).map(|n| numbers[n * numbers.len() / PARTS]).collect();
        bounds.dedup();
        Ok(Self::ByRange(by.to_string(), bounds))
    }

    /// The order and the name of a row's group.
    fn of(&self, row: &table::Row) -> Option<(usize, String)> {
        match self {
            Self::One => None,
            Self::ByValue(by) => Some((
                0,
                match row.get(by) {
                    None | Some(Value::Null) => "(absent)".into(),
                    Some(Value::String(text)) => text.chars().take(60).collect(),
                    Some(other) => other.to_string(),
                },
            )),
            Self::ByRange(by, bounds) => {
                let Some(value) = row.get(by).and_then(Value::as_f64) else {
                    return Some((PARTS, "(absent)".into()));
                };
                let at = bounds.partition_point(|bound| *bound <= value).saturating_sub(1);
                let to = bounds.get(at + 1).map(|to| format!("below {to}"));
                Some((at, format!("{} and {}", bounds[at], to.unwrap_or_else(|| "above".into()))))
            }
        }
    }
}

/// Looks at the columns of a file; group by group, column by column in their order.
///
/// # Errors
///
/// A file that cannot be read, or a column that it does not have.
pub fn stats(path: &Path, question: &Question) -> Result<Vec<Column>, DocumentsError> {
    let groups = Groups::find(path, question.by.as_deref())?;
    let wanted: Option<Vec<String>> = (!question.columns.is_empty()).then(|| {
        let conditions = question.conditions.iter().map(|c| &c.column);
        let mut all: Vec<String> =
            question.columns.iter().chain(question.by.iter()).chain(conditions).cloned().collect();
        all.sort();
        all.dedup();
        all
    });
    let mut names: Vec<String> = question.columns.clone();
    let mut seen: std::collections::BTreeSet<String> = Default::default();
    let mut found: BTreeMap<Option<(usize, String)>, Vec<Gathered>> = BTreeMap::new();
    for row in table::open(path, wanted.as_deref())? {
        let row = row?;
        for name in row.keys().filter(|name| !seen.contains(*name)).cloned().collect::<Vec<_>>() {
            if question.columns.is_empty() && question.by.as_ref() != Some(&name) {
                names.push(name.clone());
            }
            seen.insert(name);
        }
        if !question.conditions.iter().all(|c| c.holds(&row)) {
            continue;
        }
        let gathered = found.entry(groups.of(&row)).or_default();
        // A column that appears late was absent before.
        let rows = gathered.first().map_or(0, |g| g.rows);
        while gathered.len() < names.len() {
            gathered.push(Gathered { rows, ..Gathered::default() });
        }
        gathered.iter_mut().zip(&names).for_each(|(gathered, name)| gathered.add(row.get(name)));
    }
    let conditions = question.conditions.iter().map(|c| &c.column);
    let asked = question.columns.iter().chain(&question.by).chain(conditions);
    if let Some(missing) = asked.into_iter().find(|name| !found.is_empty() && !seen.contains(*name)) {
        let first = table::open(path, None)?.next().transpose()?.unwrap_or_default();
        let there: Vec<&str> = first.keys().map(String::as_str).collect();
        let problem = format!("is missing; there are {}", there.join(", "));
        return Err(DocumentsError::column(path, missing, problem));
    }
    let bins = question.bins;
    Ok(found
        .into_iter()
        .flat_map(|(group, gathered)| {
            let group = group.map(|(_, name)| name);
            let columns = gathered.into_iter().zip(&names);
            columns.map(move |(g, name)| g.describe(name, group.clone(), bins)).collect::<Vec<_>>()
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: impl Iterator<Item = String>) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
        (dir, path)
    }

    #[test]
    fn numbers_have_quantiles_and_words_have_counts() {
        let (_dir, path) = file((0..=100).map(|n| {
            let language = if n % 4 == 0 { "de" } else { "en" };
            let score = if n == 50 { "null".to_string() } else { n.to_string() };
            format!("{{\"score\":{score},\"language\":\"{language}\"}}")
        }));
        let all = stats(&path, &Question { bins: 4, ..Question::default() }).unwrap();
        let score = &all[0];
        assert_eq!((score.rows, score.absent, score.distinct), (101, 1, 100));
        let numbers = score.numbers.as_ref().unwrap();
        assert_eq!((numbers.min, numbers.max, numbers.mean), (0.0, 100.0, 50.0));
        assert_eq!(numbers.quantiles, [1.0, 5.0, 25.0, 51.0, 75.0, 95.0, 99.0]);
        assert_eq!(numbers.histogram, [(0.0, 25), (25.0, 25), (50.0, 24), (75.0, 26)]);
        assert_eq!(all[1].frequent, [("en".to_string(), 75), ("de".to_string(), 26)]);

        let by = Question {
            columns: vec!["score".into()],
            by: Some("language".into()),
            bins: 2,
            conditions: vec!["score>=10".parse().unwrap()],
        };
        let groups = stats(&path, &by).unwrap();
        let named: Vec<_> = groups.iter().map(|g| (g.group.as_deref().unwrap(), g.rows)).collect();
        assert_eq!(named, [("de", 23), ("en", 67)]);

        let by = Question {
            columns: vec!["language".into()],
            by: Some("score".into()),
            bins: 2,
            ..Question::default()
        };
        let groups = stats(&path, &by).unwrap();
        assert_eq!(groups.len(), PARTS + 1, "ten parts and what has no score");
        assert_eq!((groups[0].group.as_deref(), groups[0].rows), (Some("0 and below 10"), 10));

        let missing = Question { columns: vec!["scor".into()], ..Question::default() };
        let message = stats(&path, &missing).unwrap_err().to_string();
        assert!(message.contains("`scor`") && message.contains("score, language"), "{message}");
    }
}

//! Samples: a few rows of a file by chance, the same for the same seed, of those that fulfil conditions on columns.

use crate::documents::DocumentsError;
use crate::table::{self, Row};
use herd_run::random::Random;
use serde_json::Value;
use std::collections::BinaryHeap;
use std::path::Path;
use std::str::FromStr;

/// A condition on a column, such as `language=de`, `quality<0.3` or `url~debian.org`.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The column.
    pub column: String,
    relation: Relation,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Equal,
    Unequal,
    Less,
    AtMost,
    Greater,
    AtLeast,
    Contains,
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = text.find(['=', '!', '<', '>', '~']).ok_or_else(|| {
            format!(
                "'{text}' is no condition; write COLUMN=VALUE, with one of = != < <= > >= or ~ (contains)"
            )
        })?;
        let (column, rest) = text.split_at(at);
        let relations = [
            ("!=", Relation::Unequal),
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("=", Relation::Equal),
            ("<", Relation::Less),
            (">", Relation::Greater),
            ("~", Relation::Contains),
        ];
        let (sign, relation) =
            relations.into_iter().find(|(sign, _)| rest.starts_with(sign)).ok_or("'!' stands alone")?;
        let value = rest[sign.len()..].trim().to_string();
        let is_order = !matches!(relation, Relation::Equal | Relation::Unequal | Relation::Contains);
        if is_order && value.parse::<f64>().is_err() {
            return Err(format!("'{value}' is no number, which {sign} needs"));
        }
        if column.trim().is_empty() {
            return Err(format!("'{text}' names no column"));
        }
        Ok(Self { column: column.trim().to_string(), relation, value })
    }
}

impl Condition {
    /// Whether a row fulfils it. A value that is absent only differs.
    pub fn holds(&self, row: &Row) -> bool {
        let value = row.get(&self.column).unwrap_or(&Value::Null);
        let number = value.as_f64().zip(self.value.parse::<f64>().ok());
        let equal = match (value, number) {
            (_, Some((a, b))) => a == b,
            (Value::String(text), _) => *text == self.value,
            (Value::Null, _) => self.value.is_empty(),
            (Value::Bool(truth), _) => self.value.parse() == Ok(*truth),
            _ => false,
        };
        match self.relation {
            Relation::Equal => equal,
            Relation::Unequal => !equal,
            Relation::Less => number.is_some_and(|(a, b)| a < b),
            Relation::AtMost => number.is_some_and(|(a, b)| a <= b),
            Relation::Greater => number.is_some_and(|(a, b)| a > b),
            Relation::AtLeast => number.is_some_and(|(a, b)| a >= b),
            Relation::Contains => value.as_str().is_some_and(|text| text.contains(&self.value)),
        }
    }
}

/// Keeps the `count` things of a stream to which chance gives the smallest keys: a sample without replacement that does
/// not need to know how many there are.
pub struct Reservoir<T> {
    random: Random,
    count: usize,
    seen: u64,
    kept: BinaryHeap<Keyed<T>>,
}

struct Keyed<T> {
    key: u64,
    place: u64,
    item: T,
}

impl<T> PartialEq for Keyed<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.key, self.place) == (other.key, other.place)
    }
}

impl<T> Eq for Keyed<T> {}

impl<T> PartialOrd for Keyed<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Keyed<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.key, self.place).cmp(&(other.key, other.place))
    }
}

impl<T> Reservoir<T> {
    /// An empty one for a purpose named by `path`.
    pub fn new(count: usize, seed: u64, path: &[u64]) -> Self {
        Self { random: Random::new(seed, path).named("sample"), count, seen: 0, kept: BinaryHeap::new() }
    }

    /// Offers the next thing; it is only made if it is kept for now.
    pub fn offer(&mut self, make: impl FnOnce() -> T) {
        let (key, place) = (self.random.at(self.seen), self.seen);
        self.seen += 1;
        if self.kept.len() < self.count {
            self.kept.push(Keyed { key, place, item: make() });
        } else if self.kept.peek().is_some_and(|most| (key, place) < (most.key, most.place)) {
            self.kept.pop();
            self.kept.push(Keyed { key, place, item: make() });
        }
    }

    /// Things offered so far.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The sample, in the order of the stream.
    pub fn finish(self) -> Vec<T> {
        let mut kept = self.kept.into_vec();
        kept.sort_by_key(|keyed| keyed.place);
        kept.into_iter().map(|keyed| keyed.item).collect()
    }
}

/// A sample of a file's rows, and how many rows there were to choose from.
///
/// # Errors
///
/// A file that cannot be read, or a condition on a column that it does not have.
pub fn sample(
    path: &Path,
    conditions: &[Condition],
    count: usize,
    seed: u64,
) -> Result<(Vec<Row>, u64), DocumentsError> {
    let mut kept = Reservoir::new(count, seed, &[]);
    let mut known: Option<Vec<String>> = None;
    for row in table::open(path, None)? {
        let row = row?;
        let columns = known.get_or_insert_with(|| row.keys().cloned().collect());
        if let Some(odd) =
            conditions.iter().find(|c| !row.contains_key(&c.column) && !columns.contains(&c.column))
        {
            let problem = format!("is missing; there are {}", columns.join(", "));
            return Err(DocumentsError::column(path, &odd.column, problem));
        }
        if conditions.iter().all(|c| c.holds(&row)) {
            kept.offer(|| row);
        }
    }
    let seen = kept.seen();
    Ok((kept.finish(), seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(json: &str) -> Row {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn conditions_compare_numbers_words_and_parts() {
        let row = row(r#"{"language":"de","quality":0.25,"none":null,"url":"https://a.example/x"}"#);
        for (condition, expected) in [
            ("language=de", true),
            ("language!=de", false),
            ("quality<0.3", true),
            ("quality >= 0.25", true),
            ("quality>0.25", false),
            ("quality=0.250", true),
            ("url~a.example", true),
            ("url~b.example", false),
            ("none=", true),
            ("none<1", false),
            ("absent!=x", true),
        ] {
            assert_eq!(condition.parse::<Condition>().unwrap().holds(&row), expected, "{condition}");
        }
        for wrong in ["language", "quality<low", "=3", "a!b"] {
            assert!(wrong.parse::<Condition>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sample_is_even_and_repeats() {
        let draw = |seed: u64| {
            let mut kept = Reservoir::new(20, seed, &[]);
            (0..200).for_each(|n| kept.offer(|| n));
            kept.finish()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert!(draw(1).is_sorted() && draw(1).len() == 20);
        let mean = (0..200).map(|seed| draw(seed).iter().sum::<i32>() as f64).sum::<f64>() / 4000.0;
        assert!((mean - 99.5).abs() < 4.0, "{mean}");
    }
}

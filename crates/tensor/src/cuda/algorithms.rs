//! Which algorithm products are made with: the fastest of those that the library names for a shape, measured once for a card
//! and a version of the library, and kept in the user's cache.
//!
//! Another algorithm may add in another order. So what was measured is only used where it can be kept: a run that is repeated
//! or resumed finds the same choice, and so the same bits.

use super::compile::{fingerprint, keep};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// cublasLtMatmulAlgo_t. It may be stored and used again with the same version of the library.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Algorithm(pub [u64; 8]);

/// Choices by what they are for, in words.
type Table = BTreeMap<String, Algorithm>;

/// What was chosen, and the file where it is kept.
pub(super) struct Choices {
    file: PathBuf,
    table: Table,
    /// Whether the file could be written when it was last tried.
    kept: bool,
}

impl Choices {
    /// What a file holds; nothing if it is damaged or not there.
    pub fn open(file: PathBuf) -> Self {
        let table = fs::read_to_string(&file).ok().and_then(|text| parse(&text)).unwrap_or_default();
        Self { file, table, kept: true }
    }

    /// Whether a new choice can be expected to be kept.
    pub fn can_keep(&self) -> bool {
        self.kept
    }

    /// The choice for a product.
    pub fn get(&self, product: &str) -> Option<Algorithm> {
        self.table.get(product).copied()
    }

    /// Keeps a choice, beside what other processes have kept meanwhile: the one that holds from now on, or `None` if it
    /// cannot be kept.
    pub fn keep(&mut self, product: &str, algorithm: Algorithm) -> Option<Algorithm> {
        let mut table = Self::open(self.file.clone()).table;
        let chosen = *table.entry(product.into()).or_insert(algorithm);
        self.kept = keep(&self.file, format(&table).as_bytes()).is_ok();
        self.table = table;
        self.kept.then_some(chosen)
    }

    /// Forgets a choice that the library does not take.
    pub fn forget(&mut self, product: &str) {
        self.table.remove(product);
        self.kept = keep(&self.file, format(&self.table).as_bytes()).is_ok();
    }
}

const TITLE: &str = "herd products 1";

/// A title with the fingerprint of what follows: a line for each product, with the words of its algorithm.
fn format(table: &Table) -> String {
    let line = |(product, Algorithm(words)): (&String, &Algorithm)| {
        let words: Vec<String> = words.iter().map(|word| format!("{word:016x}")).collect();
        format!("{product} = {}\n", words.join(" "))
    };
    let lines: String = table.iter().map(line).collect();
    format!("{TITLE} {:016x}\n{lines}", fingerprint(&lines))
}

fn parse(text: &str) -> Option<Table> {
    let (title, lines) = text.split_once('\n')?;
    if title != format!("{TITLE} {:016x}", fingerprint(lines)) {
        return None;
    }
    let entry = |line: &str| {
        let (product, words) = line.split_once(" = ")?;
        let words: Option<Vec<u64>> =
            words.split(' ').map(|word| u64::from_str_radix(word, 16).ok()).collect();
        Some((product.to_string(), Algorithm(words?.try_into().ok()?)))
    };
    lines.lines().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Choices};
    use std::fs;

    #[test]
    fn choices_are_kept_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache/products");
        let [a, b] = [1, 2].map(|first| Algorithm([first, 0, 0, 0, 0, 0, 0, u64::MAX]));
        let mut choices = Choices::open(file.clone());
        assert_eq!(choices.keep("4 x 4", a), Some(a));
        // Another process has chosen for another product, and otherwise for this one.
        let mut other = Choices::open(file.clone());
        assert_eq!((other.keep("8 x 8", b), other.keep("4 x 4", b)), (Some(b), Some(a)));
        assert_eq!(choices.keep("2 x 2", b), Some(b));
        let found = |product| Choices::open(file.clone()).get(product);
        assert_eq!(["2 x 2", "4 x 4", "8 x 8"].map(found), [Some(b), Some(a), Some(b)]);
        let whole = fs::read_to_string(&file).unwrap();
        for damaged in [whole.replace('f', "e"), whole[..whole.len() - 9].into(), String::new(), "{}".into()]
        {
            fs::write(&file, damaged).unwrap();
            assert_eq!(found("4 x 4"), None);
        }
        assert_eq!(Choices::open(file.clone()).keep("4 x 4", b), Some(b), "it is written anew");
        let mut choices = Choices::open(file.clone());
        choices.forget("4 x 4");
        assert_eq!(found("4 x 4"), None);
        // A file where the folder should be.
        let mut nowhere = Choices::open(file.join("products"));
        assert_eq!((nowhere.keep("4 x 4", a), nowhere.can_keep()), (None, false));
    }
}

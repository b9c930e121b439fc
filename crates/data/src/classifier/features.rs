//! What a linear classifier sees of a text: its words, their subwords and its word n-grams, each a row of a matrix.
//! Exactly fastText's features (Joulin et al., arXiv 1607.01759; Bojanowski et al., arXiv 1607.04606), so that models go
//! from one program to the other.

use std::collections::HashMap;

/// Labels are words that begin so, as in fastText's files.
pub const LABEL: &str = "__label__";
/// The word that ends every text.
const END: &str = "</s>";

/// Which features there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows that subwords and n-grams are hashed into.
    pub buckets: u32,
    /// Shortest subword, characters.
    pub min_subword: usize,
    /// Longest subword, characters; 0 for none.
    pub max_subword: usize,
    /// Longest word n-gram, words; 1 for none.
    pub word_ngrams: usize,
}

/// The words that have a row of their own, most frequent first.
#[derive(Debug, Clone, PartialEq)]
pub struct Dictionary {
    /// Words with their counts.
    pub words: Vec<(String, i64)>,
    index: HashMap<String, u32>,
    shape: Shape,
}

/// fastText's hash: FNV-1a with signed bytes.
fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |h, b| (h ^ *b as i8 as u32).wrapping_mul(16_777_619))
}

/// Stretches between fastText's white space. Lines do not end a text: a document is one example.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '\n', '\r', '\t', '\x0b', '\x0c', '\0'])
        .filter(|w| !w.is_empty() && !w.starts_with(LABEL))
}

impl Dictionary {
    /// A dictionary of these words in this order.
    pub fn new(words: Vec<(String, i64)>, shape: Shape) -> Self {
        let index = words.iter().zip(0..).map(|((word, _), n)| (word.clone(), n)).collect();
        Self { words, index, shape }
    }

    /// The words of `texts` that occur at least `min_count` times, at most `max_words` of them.
    pub fn count<'a>(
        texts: impl Iterator<Item = &'a str>,
        shape: Shape,
        min_count: i64,
        max_words: usize,
    ) -> Self {
        let mut counts: HashMap<&str, i64> = HashMap::new();
        for text in texts {
            words(text).chain([END]).for_each(|word| *counts.entry(word).or_default() += 1);
        }
        let mut kept: Vec<(&str, i64)> =
            counts.into_iter().filter(|(w, n)| *n >= min_count || *w == END).collect();
        kept.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        kept.truncate(max_words.max(1));
        Self::new(kept.into_iter().map(|(w, n)| (w.to_string(), n)).collect(), shape)
    }

    /// Which features there are.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Rows of the matrix: words, then buckets.
    pub fn rows(&self) -> usize {
        self.words.len() + self.shape.buckets as usize
    }

    /// The rows of a text; a row that occurs twice stands there twice.
    pub fn features(&self, text: &str) -> Vec<u32> {
        let mut rows = Vec::with_capacity(text.len() / 4);
        let mut hashes: Vec<i32> = Vec::with_capacity(text.len() / 6);
        for word in words(text).chain([END]) {
            let known = self.index.get(word);
            rows.extend(known);
            if self.shape.max_subword > 0 && word != END {
                self.subwords(word, &mut rows);
            }
            hashes.push(hash(word.as_bytes()) as i32);
        }
        if self.shape.buckets > 0 {
            for (n, first) in hashes.iter().enumerate() {
                let mut h = *first as i64 as u64;
                for next in hashes[n + 1..].iter().take(self.shape.word_ngrams.saturating_sub(1)) {
                    h = h.wrapping_mul(116_049_371).wrapping_add(*next as i64 as u64);
                    rows.push(self.words.len() as u32 + (h % self.shape.buckets as u64) as u32);
                }
            }
        }
        rows
    }

    /// The character n-grams of `<word>`, bounds included; a bound alone is none.
    fn subwords(&self, word: &str, rows: &mut Vec<u32>) {
        if self.shape.buckets == 0 {
            return;
        }
        let bounded = format!("<{word}>");
        let starts: Vec<usize> = bounded.char_indices().map(|(n, _)| n).chain([bounded.len()]).collect();
        let chars = starts.len() - 1;
        for from in 0..chars {
            for length in self.shape.min_subword.max(1)..=self.shape.max_subword.min(chars - from) {
                let to = from + length;
                if length == 1 && (from == 0 || to == chars) {
                    continue;
                }
                let h = hash(&bounded.as_bytes()[starts[from]..starts[to]]);
                rows.push(self.words.len() as u32 + h % self.shape.buckets);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_subwords_and_ngrams_have_their_rows() {
        let shape = Shape { buckets: 1000, min_subword: 2, max_subword: 3, word_ngrams: 2 };
        let dictionary = Dictionary::count(["aé b aé", "b\n__label__x c"].into_iter(), shape, 2, 10);
        let words: Vec<&str> = dictionary.words.iter().map(|(w, _)| w.as_str()).collect();
        assert_eq!(words, ["</s>", "aé", "b"]);
        let rows = dictionary.features("aé c");
        // aé: itself, <a aé é> <aé aé>; c: <c c> <c>; </s>; the pairs "aé c" and "c </s>".
        assert_eq!(rows.len(), 1 + 5 + 3 + 1 + 2);
        assert_eq!(rows[0], 1);
        assert_eq!(rows[1], 3 + hash("<a".as_bytes()) % 1000);
        assert_eq!(rows[9], 0);
        let (a, c) = (hash("aé".as_bytes()) as i32 as i64 as u64, hash(b"c") as i32 as i64 as u64);
        assert_eq!(rows[10] as u64, 3 + a.wrapping_mul(116_049_371).wrapping_add(c) % 1000);
        assert!(dictionary.features("").len() == 1, "only the end");
    }
}

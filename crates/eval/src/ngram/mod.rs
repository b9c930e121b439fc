//! N-gram models, the yardstick beside the Transformer: interpolated modified Kneser-Ney (Chen and Goodman 1999,
//! equations 20-24) of order 1 to 3 over the same token stream.
//!
//! For a context `u` and a token `w`
//!
//! ```text
//! p(w | u) = (c(u w) - D(c(u w))) / c(u .) + γ(u) p(w | u'),    γ(u) = Σ_w D(c(u w)) / c(u .)
//! ```
//!
//! where `u'` is `u` without its first token and the recursion ends at `1 / vocabulary`. At the highest order `c` is
//! the raw count; below, it is the number of *different* tokens that precede the n-gram, except for n-grams that
//! open a document: nothing can precede them, so they keep their raw count (as KenLM does). The three discounts of
//! an order come from its counts of counts.
//!
//! The model is a trie of sorted arrays without hashing: 8 bytes for an n-gram of the highest order, 16 for a shorter
//! one. Equal input gives equal bits for any number of threads, because sorted keys have one order only.

mod build;
mod trie;

pub use build::{Discounts, MAX_ORDER};
pub use trie::NGram;

/// Token sequences that can be read in any order and from several threads. Each begins with the same token
/// (`<|begin_of_text|>`), which is given and never predicted.
pub trait Documents: Sync {
    /// Number of documents.
    fn count(&self) -> usize;
    /// Replaces the content of `ids` by document `index`.
    fn copy(&self, index: usize, ids: &mut Vec<u32>);
    /// Where the documents come from, for errors.
    fn source(&self) -> String;
}

impl Documents for [Vec<u32>] {
    fn count(&self) -> usize {
        self.len()
    }

    fn copy(&self, index: usize, ids: &mut Vec<u32>) {
        ids.clear();
        ids.extend_from_slice(&self[index]);
    }

    fn source(&self) -> String {
        "documents in memory".to_string()
    }
}

/// Why an n-gram model cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum NGramError {
    /// The order is 0 or too high.
    #[error("n-gram order {0} is not supported; choose 1 to {MAX_ORDER}")]
    Order(usize),
    /// The vocabulary does not fit into packed keys.
    #[error("a vocabulary of {0} tokens is not supported; it must have 1 to {max} tokens", max = 1u32 << 21)]
    Vocabulary(usize),
    /// A document is not what the model expects.
    #[error("{source_name}: document {document} {problem}; make the shards again with `herd shards`")]
    Document {
        /// Where the documents come from.
        source_name: String,
        /// Index of the document.
        document: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// Stopped on request.
    #[error(transparent)]
    Interrupted(#[from] herd_run::Interrupted),
}

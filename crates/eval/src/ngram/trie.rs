//! The model: one sorted array per order, children of a context side by side, interpolated probabilities stored.

use super::build::{Corpus, Counted, MAX_ORDER};
use super::{Discounts, Documents, NGramError};
use rayon::prelude::*;
use std::ops::Range;

/// Contexts whose probabilities are computed by one unit of parallel work.
const CONTEXTS_PER_UNIT: usize = 1024;

/// An interpolated modified Kneser-Ney model. See the module's text for the formula.
pub struct NGram {
    order: usize,
    vocabulary: usize,
    levels: Vec<Level>,
    discounts: Vec<Discounts>,
}

/// All n-grams of one length. Level 0 (unigrams) has an entry for every token.
#[derive(Default)]
struct Level {
    /// Last token of each n-gram; those with the same context stand together in ascending order.
    words: Vec<u32>,
    /// `p(last token | the others)`, interpolated.
    probability: Vec<f32>,
    /// `γ` of the n-gram as a context; empty at the highest order.
    backoff: Vec<f32>,
    /// Children of entry `i` are `children[i]..children[i + 1]` of the next level; empty at the highest order.
    children: Vec<u32>,
}

impl Level {
    fn children_of(&self, node: usize) -> Range<usize> {
        self.children[node] as usize..self.children[node + 1] as usize
    }

    fn find(&self, range: Range<usize>, word: u32) -> Option<usize> {
        self.words[range.clone()].binary_search(&word).ok().map(|place| range.start + place)
    }
}

impl NGram {
    /// Trains a model of `order` 1, 2 or 3 on all `documents`.
    ///
    /// Memory while training: 8 bytes per training token (at most 512 MB at a time) and about 24 bytes per different
    /// n-gram.
    ///
    /// # Errors
    /// A document that is empty, does not begin with the common first token, repeats it, or holds a token outside
    /// the vocabulary.
    pub fn train<D: Documents + ?Sized>(
        documents: &D,
        vocabulary: usize,
        order: usize,
    ) -> Result<Self, NGramError> {
        if !(1..=MAX_ORDER).contains(&order) {
            return Err(NGramError::Order(order));
        }
        if !(1..=1 << 21).contains(&vocabulary) {
            return Err(NGramError::Vocabulary(vocabulary));
        }
        let bits = usize::BITS - (vocabulary - 1).leading_zeros();
        let corpus = Corpus { documents, vocabulary, bits: bits.max(1) };
        let (totals, _) = corpus.check()?;
        let mut counted = vec![corpus.raw(order, &totals)];
        for shorter in (1..order).rev() {
            let next = corpus.adjusted(&counted[0], shorter);
            counted.insert(0, next);
        }
        let discounts = counted.iter().map(Counted::discounts).collect();
        let mut model = Self { order, vocabulary, levels: Vec::new(), discounts };
        model.add_unigrams(&counted[0]);
        for length in 2..=order {
            model.add_level(&counted[length - 2], &counted[length - 1], corpus.bits, length);
        }
        Ok(model)
    }

    fn add_unigrams(&mut self, counted: &Counted) {
        let total: f64 = counted.counts.iter().map(|&c| f64::from(c)).sum();
        let discount = self.discounts[0];
        let spared: f64 = counted.counts.iter().map(|&c| discount.of(c)).sum();
        let uniform = 1.0 / self.vocabulary as f64;
        let base = if total > 0.0 { spared / total * uniform } else { uniform };
        let mut probability = vec![base as f32; self.vocabulary];
        for (&key, &count) in counted.keys.iter().zip(&counted.counts) {
            let own = (f64::from(count) - discount.of(count)) / total;
            probability[key as usize] = (own + base) as f32;
        }
        let words = (0..self.vocabulary as u32).collect();
        self.levels.push(Level { words, probability, ..Level::default() });
    }

    /// Adds the n-grams of `length` tokens; `shorter` holds the keys of the level below (ignored for unigrams, which
    /// are all there).
    fn add_level(&mut self, shorter: &Counted, counted: &Counted, bits: u32, length: usize) {
        let parents = self.levels[length - 2].words.len();
        let prefix_of = |node: usize| if length == 2 { node as u64 } else { shorter.keys[node] };
        let mut children = Vec::with_capacity(parents + 1);
        let mut place = 0;
        for node in 0..parents {
            children.push(place as u32);
            while counted.keys.get(place).is_some_and(|key| key >> bits == prefix_of(node)) {
                place += 1;
            }
        }
        children.push(place as u32);
        debug_assert_eq!(place, counted.keys.len(), "every n-gram has its prefix one order below");

        let word_mask = (1u64 << bits) - 1;
        let words: Vec<u32> = counted.keys.par_iter().map(|key| (key & word_mask) as u32).collect();
        let mut probability = vec![0f32; words.len()];
        let mut backoff = vec![1f32; parents];
        let discount = self.discounts[length - 1];
        self.levels[length - 2].children = children;

        // Each unit owns the contexts of one slice, so the arrays can be cut into disjoint parts.
        let parent_level = &self.levels[length - 2];
        let mut rest = probability.as_mut_slice();
        let mut units = Vec::new();
        for (unit, backoff) in backoff.chunks_mut(CONTEXTS_PER_UNIT).enumerate() {
            let first = unit * CONTEXTS_PER_UNIT;
            let from = parent_level.children[first] as usize;
            let to = parent_level.children[first + backoff.len()] as usize;
            let (mine, others) = rest.split_at_mut(to - from);
            rest = others;
            units.push((first, from, backoff, mine));
        }
        let this = &*self;
        units.into_par_iter().for_each(|(first, from, backoff, probability)| {
            for (node, backoff) in (first..).zip(backoff) {
                let range = parent_level.children_of(node);
                if range.is_empty() {
                    continue;
                }
                let counts = &counted.counts[range.clone()];
                let total: f64 = counts.iter().map(|&c| f64::from(c)).sum();
                let gamma = counts.iter().map(|&c| discount.of(c)).sum::<f64>() / total;
                *backoff = gamma as f32;
                let context = this.shorter_context(prefix_of(node), bits, length - 1);
                for (child, &count) in range.zip(counts) {
                    let lower = this.child_probability(context, length - 2, words[child]);
                    let own = (f64::from(count) - discount.of(count)) / total;
                    probability[child - from] = (own + gamma * f64::from(lower)) as f32;
                }
            }
        });
        self.levels[length - 2].backoff = backoff;
        self.levels.push(Level { words, probability, ..Level::default() });
    }

    /// Node of a context without its first token; `None` is the empty context. `length` is that of the whole.
    fn shorter_context(&self, key: u64, bits: u32, length: usize) -> Option<usize> {
        let mut node = None;
        for position in 1..length {
            let shift = bits * (length - 1 - position) as u32;
            let word = (key >> shift & ((1 << bits) - 1)) as u32;
            node = self.step(node, position - 1, word);
        }
        node
    }

    /// From a node of `depth` tokens to the one with `word` added.
    fn step(&self, node: Option<usize>, depth: usize, word: u32) -> Option<usize> {
        match node {
            None if depth == 0 => Some(word as usize),
            None => None,
            Some(node) => {
                let parent = &self.levels[depth - 1];
                self.levels.get(depth).and_then(|level| level.find(parent.children_of(node), word))
            }
        }
    }

    /// Stored probability of `word` after a context of `depth` tokens, under which it was seen: a suffix of a known
    /// n-gram is known.
    fn child_probability(&self, context: Option<usize>, depth: usize, word: u32) -> f32 {
        self.step(context, depth, word).map_or(0.0, |node| self.levels[depth].probability[node])
    }

    /// `p(token | context)`; only the last `order - 1` tokens of the context count. Above 0 for every token of the
    /// vocabulary, and 0 for one outside it.
    pub fn probability(&self, context: &[u32], token: u32) -> f64 {
        if token as usize >= self.vocabulary {
            return 0.0;
        }
        let context = &context[context.len().saturating_sub(self.order - 1)..];
        let mut weight = 1.0;
        for start in 0..context.len() {
            let suffix = &context[start..];
            let Some(node) = self.locate(suffix) else { continue };
            let level = &self.levels[suffix.len() - 1];
            match self.levels[suffix.len()].find(level.children_of(node), token) {
                Some(child) => return weight * f64::from(self.levels[suffix.len()].probability[child]),
                None => weight *= f64::from(level.backoff[node]),
            }
        }
        weight * f64::from(self.levels[0].probability[token as usize])
    }

    fn locate(&self, gram: &[u32]) -> Option<usize> {
        let first = gram.first().filter(|&&id| (id as usize) < self.vocabulary)?;
        let start = Some(*first as usize);
        gram.iter().enumerate().skip(1).try_fold(start, |node, (depth, &word)| {
            node.map(|node| self.step(Some(node), depth, word)).filter(Option::is_some)
        })?
    }

    /// Bits needed to code a document after its first token: `-Σ log2 p(id_i | id_0 .. id_(i-1))`, `i >= 1`.
    pub fn bits(&self, ids: &[u32]) -> f64 {
        (1..ids.len()).map(|i| -self.probability(&ids[..i], ids[i]).log2()).sum()
    }

    /// Tokens of context used plus one.
    pub fn order(&self) -> usize {
        self.order
    }

    /// Number of different n-grams of each length that were seen (unigrams: the vocabulary).
    pub fn entries(&self) -> Vec<usize> {
        self.levels.iter().map(|level| level.words.len()).collect()
    }

    /// The discounts of each order.
    pub fn discounts(&self) -> &[Discounts] {
        &self.discounts
    }
}

//! The merge loop: a heap of pairs whose counts are kept exact by touching only the words that hold the pair.

use crate::Error;
use crate::hashing::FastMap;
use herd_run::Context;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A pair of token ids; orders as (left, right).
type Pair = (u32, u32);

/// What is known of a pair that occurs.
#[derive(Default)]
struct Occurrences {
    /// Times the pair occurs in the text, overlaps included.
    count: u64,
    /// Words that hold it, or held it; without repeats in a row.
    words: Vec<u32>,
}

/// The distinct words of the text as token ids, all in one buffer; merging shortens them in place.
pub(super) struct Words {
    ids: Vec<u32>,
    /// Start in `ids`, length, and times the word occurs.
    spans: Vec<(usize, u32, u64)>,
}

/// Learns at most `wanted` merges from words. The pair with the highest count is next; of pairs
/// with equal counts the one with the lower ids, as Hugging Face's trainer does.
///
/// Merge `k` makes token `first + k`.
pub(super) fn learn(
    mut words: Words,
    first: u32,
    wanted: usize,
    min_frequency: u64,
    ctx: &Context,
) -> Result<Vec<Pair>, Error> {
    let mut pairs = words.pairs();
    let mut heap: BinaryHeap<(u64, Reverse<Pair>)> =
        pairs.iter().map(|(&pair, found)| (found.count, Reverse(pair))).collect();

    let task = ctx.progress.task("tokenizer", Some(wanted as u64), "merges");
    let mut merges = Vec::with_capacity(wanted);
    let mut touched = Vec::new();
    while merges.len() < wanted {
        let Some((count, Reverse(pair))) = heap.pop() else { break };
        let current = pairs.get(&pair).map_or(0, |found| found.count);
        if current != count {
            // The count fell since it was put on the heap; it waits for its turn again.
            if current > 0 {
                heap.push((current, Reverse(pair)));
            }
            continue;
        }
        if count < min_frequency {
            break;
        }
        let token = first + merges.len() as u32;
        let holders = pairs.remove(&pair).map(|found| found.words).unwrap_or_default();
        for word in holders {
            words.merge(word, pair, token, &mut pairs, &mut touched);
        }
        touched.sort_unstable();
        touched.dedup();
        for pair in touched.drain(..) {
            if let Some(found) = pairs.get(&pair).filter(|found| found.count > 0) {
                heap.push((found.count, Reverse(pair)));
            }
        }
        merges.push(pair);
        task.add(1);
        if merges.len().is_multiple_of(64) {
            ctx.stop.check()?;
        }
    }
    Ok(merges)
}

impl Words {
    /// Room for words of so many tokens in all.
    pub(super) fn with_capacity(words: usize, tokens: usize) -> Self {
        Self { ids: Vec::with_capacity(tokens), spans: Vec::with_capacity(words) }
    }

    /// Adds a word that occurs `count` times; `split` appends the tokens that it consists of.
    pub(super) fn push(&mut self, count: u64, split: impl FnOnce(&mut Vec<u32>)) {
        let start = self.ids.len();
        split(&mut self.ids);
        self.spans.push((start, (self.ids.len() - start) as u32, count));
    }

    fn pairs(&self) -> FastMap<Pair, Occurrences> {
        let mut pairs = FastMap::<Pair, Occurrences>::default();
        for (word, &(start, length, count)) in self.spans.iter().enumerate() {
            for two in self.ids[start..start + length as usize].windows(2) {
                pairs.entry((two[0], two[1])).or_default().add(word as u32, count);
            }
        }
        pairs
    }

    /// Replaces the pair by the token in one word, left to right, and keeps the counts of the neighbouring pairs.
    /// Pairs that are new in the word are appended to `touched`.
    fn merge(
        &mut self,
        word: u32,
        pair: Pair,
        token: u32,
        pairs: &mut FastMap<Pair, Occurrences>,
        touched: &mut Vec<Pair>,
    ) {
        let (start, length, count) = self.spans[word as usize];
        let ids = &mut self.ids[start..start + length as usize];
        let mut lose = |lost: Pair| {
            if lost != pair
                && let Some(found) = pairs.get_mut(&lost)
            {
                found.count -= count;
                if found.count == 0 {
                    // It never comes back: every pair to come has a new token.
                    pairs.remove(&lost);
                }
            }
        };
        // First the pairs that go, while the word still shows them ...
        let mut read = 0;
        let mut written = 0;
        let mut previous_merged = false;
        while read < ids.len() {
            let merges = read + 1 < ids.len() && (ids[read], ids[read + 1]) == pair;
            if merges {
                if written > 0 && !previous_merged {
                    lose((ids[written - 1], pair.0));
                } else if previous_merged {
                    lose((pair.1, pair.0));
                }
                ids[written] = token;
                read += 2;
            } else {
                if previous_merged {
                    lose((pair.1, ids[read]));
                }
                ids[written] = ids[read];
                read += 1;
            }
            previous_merged = merges;
            written += 1;
        }
        self.spans[word as usize].1 = written as u32;
        // ... then those that come, from the word as it is now.
        for two in ids[..written].windows(2).filter(|two| two.contains(&token)) {
            let new = (two[0], two[1]);
            pairs.entry(new).or_default().add(word, count);
            touched.push(new);
        }
    }
}

impl Occurrences {
    fn add(&mut self, word: u32, count: u64) {
        self.count += count;
        if self.words.last() != Some(&word) {
            self.words.push(word);
        }
    }
}

//! Packing without padding: whole dialogs, and prompts with all their responses, one after another in the rows of a
//! batch. What may attend to what is said by [`Segments`], never by a mask.

use herd_model::Batch;
use herd_run::Random;
use herd_tensor::{Segment, Segments};
use std::ops::Range;
use std::sync::Arc;

/// Builds the rows of one batch.
#[derive(Default)]
pub struct Packer {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<Segment>,
}

/// Where the parts of a prompt with several responses lie in the rows.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRows {
    /// Rows of the prompt.
    pub prompt: Range<usize>,
    /// Rows of each response, in the order in which the responses were given.
    pub responses: Vec<Range<usize>>,
}

impl GroupRows {
    /// The row whose output predicts token `index` of response `response`: for the first token the prompt's last row.
    pub fn predictor(&self, response: usize, index: usize) -> usize {
        match index {
            0 => self.prompt.end - 1,
            _ => self.responses[response].start + index - 1,
        }
    }
}

impl Packer {
    /// Rows so far.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn append(&mut self, tokens: &[u32], first_position: usize, prefix: Range<usize>) -> Range<usize> {
        let rows = self.len()..self.len() + tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((first_position..first_position + tokens.len()).map(|p| p as u32));
        self.segments.push(Segment { rows: rows.clone(), prefix });
        rows
    }

    /// Adds a dialog that sees only itself.
    pub fn dialog(&mut self, tokens: &[u32]) -> Range<usize> {
        let start = self.len();
        self.append(tokens, 0, start..start)
    }

    /// Adds a dialog that begins with what already lies in rows `prefix` and continues it with `tokens`.
    pub fn continuation(&mut self, tokens: &[u32], prefix: &Range<usize>) -> Range<usize> {
        self.append(tokens, prefix.len(), prefix.clone())
    }

    /// Adds a prompt and its responses (SPEC POST-3): each response sees the prompt and itself and is blind to the
    /// others; its positions continue from the prompt's. `order` says in which order the responses are laid out.
    pub fn group(&mut self, prompt: &[u32], responses: &[&[u32]], order: &[usize]) -> GroupRows {
        let prompt = self.dialog(prompt);
        let mut rows = vec![0..0; responses.len()];
        for &response in order {
            rows[response] = self.append(responses[response], prompt.len(), prompt.clone());
        }
        GroupRows { prompt, responses: rows }
    }

    /// The batch. Every row was added once and in order, so the segments cover it.
    pub fn finish(self) -> Batch {
        Batch {
            tokens: self.tokens,
            positions: self.positions,
            segments: Arc::new(Segments::new(self.segments)),
        }
    }
}

/// The examples of every step of a training run: in each epoch all examples in a new seeded order, whole examples in a
/// step until the next would exceed `batch_tokens`. A pure function of its arguments, so a resumed run sees the same.
///
/// `lengths` are the rows of each example; an `epochs` of 1.5 ends in the middle of the second order.
pub fn plan(lengths: &[usize], batch_tokens: usize, epochs: f64, seed: u64) -> Vec<Vec<usize>> {
    let mut left = (lengths.len() as f64 * epochs).round() as usize;
    let (mut steps, mut step, mut rows) = (Vec::new(), Vec::new(), 0);
    let mut epoch = 0;
    while left > 0 && !lengths.is_empty() {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        Random::new(seed, &[epoch]).shuffle(&mut order);
        for &example in order.iter().take(left) {
            if !step.is_empty() && rows + lengths[example] > batch_tokens {
                steps.push(std::mem::take(&mut step));
                rows = 0;
            }
            step.push(example);
            rows += lengths[example];
        }
        left -= left.min(lengths.len());
        epoch += 1;
    }
    if !step.is_empty() {
        steps.push(step);
    }
    steps
}

/// Cuts a list of examples, in its order, into runs of at most `batch_tokens` rows (a longer example stands alone).
pub fn chunks(lengths: &[usize], batch_tokens: usize) -> Vec<Range<usize>> {
    let mut chunks: Vec<Range<usize>> = Vec::new();
    let mut rows = 0;
    for (example, &length) in lengths.iter().enumerate() {
        match chunks.last_mut() {
            Some(chunk) if rows + length <= batch_tokens => {
                chunk.end += 1;
                rows += length;
            }
            _ => {
                chunks.push(example..example + 1);
                rows = length;
            }
        }
    }
    chunks
}

/// Likeness of two token lists: 1 - edit distance / longer length, from 0 (nothing in common) to 1 (equal).
pub fn similarity(a: &[u32], b: &[u32]) -> f64 {
    let longer = a.len().max(b.len());
    if longer == 0 {
        return 1.0;
    }
    // One row of the Levenshtein table: distances of a's prefix to every prefix of b.
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let distance = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], distance);
        }
    }
    1.0 - row[b.len()] as f64 / longer as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_share_the_prompt_and_continue_its_positions() {
        let mut packer = Packer::default();
        packer.dialog(&[9, 9]);
        let rows = packer.group(&[1, 2, 3], &[&[4, 5], &[6]], &[1, 0]);
        assert_eq!(rows, GroupRows { prompt: 2..5, responses: vec![6..8, 5..6] });
        assert_eq!((rows.predictor(0, 0), rows.predictor(0, 1), rows.predictor(1, 0)), (4, 6, 4));
        let batch = packer.finish();
        assert_eq!(batch.tokens, [9, 9, 1, 2, 3, 6, 4, 5]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2, 3, 3, 4]);
    }

    #[test]
    fn a_plan_sees_every_example_once_an_epoch_within_the_budget() {
        let lengths: Vec<usize> = (0..50).map(|i| 5 + i * 7 % 30).collect();
        let steps = plan(&lengths, 64, 2.5, 3);
        assert!(steps.iter().all(|s| s.iter().map(|&e| lengths[e]).sum::<usize>() <= 64));
        let seen: Vec<usize> = steps.concat();
        assert_eq!(seen.len(), 125);
        for epoch in [&seen[..50], &seen[50..100]] {
            let mut sorted = epoch.to_vec();
            sorted.sort();
            assert_eq!(sorted, (0..50).collect::<Vec<_>>());
        }
        assert_ne!(seen[..50], seen[50..100], "each epoch has its own order");
        assert_eq!(plan(&lengths, 64, 2.5, 3), steps);
    }

    #[test]
    fn similarity_is_edit_distance_over_length() {
        assert_eq!(similarity(&[1, 2, 3, 4], &[1, 2, 3, 4]), 1.0);
        assert_eq!(similarity(&[1, 2, 3, 4], &[1, 3, 4]), 0.75);
        assert_eq!(similarity(&[1, 2], &[3, 4]), 0.0);
        assert_eq!(similarity(&[], &[3]), 0.0);
    }
}

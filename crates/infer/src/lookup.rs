//! Guesses of the next tokens by looking up what followed the last ones before (prompt lookup, arXiv 2304.04487).
//!
//! A guess is computed beside the token that is due. If the token drawn is the guessed one, the logits after it are
//! there already. Rows do not depend on the rows beside them, so the answer has the same bits as without guesses.

/// Tokens that must have occurred before in the same order.
const KEY: usize = 3;
/// Rows of one batch up to which a further one costs little: the weights are read anyway.
pub(crate) const CHEAP_ROWS: usize = 8;
/// Tokens without guesses after one that was wrong from its beginning.
const PAUSE: usize = 8;

/// How well the guesses of one answer have been lately.
#[derive(Debug)]
pub(crate) struct Trust {
    /// Longest guess to make.
    length: usize,
    /// Length of the text from which on guesses are made.
    from: usize,
}

impl Default for Trust {
    fn default() -> Self {
        Self { length: 2, from: 0 }
    }
}

impl Trust {
    /// Tokens that may follow `text`, at most `most`, none of which `ends` it.
    pub(crate) fn guess(&self, text: &[u32], most: usize, ends: impl Fn(u32) -> bool) -> Vec<u32> {
        if text.len() < self.from.max(KEY + 1) || most == 0 {
            return Vec::new();
        }
        let (before, key) = text.split_at(text.len() - KEY);
        // The latest place whose key ends before the last token.
        let found = text[..text.len() - 1].windows(KEY).rposition(|w| w == key);
        debug_assert!(found.is_none_or(|at| at < before.len()));
        let Some(at) = found else { return Vec::new() };
        let following = text[at + KEY..].iter().take(most.min(self.length)).copied();
        following.take_while(|&token| !ends(token)).collect()
    }

    /// Learns that `right` of `guessed` tokens came true when the text had `length` tokens.
    pub(crate) fn learn(&mut self, guessed: usize, right: usize, length: usize) {
        if guessed == 0 {
            return;
        }
        self.length = if right == guessed { (self.length * 2).min(CHEAP_ROWS) } else { right.max(1) };
        if right == 0 {
            self.from = length + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_same_tokens_last_is_guessed() {
        let text = [1, 2, 3, 4, 5, 1, 2, 3, 6, 7, 8, 1, 2, 3];
        let trust = Trust { length: 8, from: 0 };
        assert_eq!(trust.guess(&text, 8, |_| false), [6, 7, 8, 1, 2, 3]);
        assert_eq!(trust.guess(&text, 2, |_| false), [6, 7]);
        assert_eq!(trust.guess(&text, 8, |t| t == 8), [6, 7]);
        assert!(trust.guess(&text[..13], 8, |_| false).is_empty());
        assert_eq!(trust.guess(&[9, 9, 9, 9], 8, |_| false), [9]);
        assert!(trust.guess(&[9, 9, 9], 8, |_| false).is_empty());
    }

    #[test]
    fn wrong_guesses_are_followed_by_a_pause_and_right_ones_by_longer_ones() {
        let text = [1, 2, 3, 4, 5, 6, 7, 1, 2, 3];
        let mut trust = Trust::default();
        assert_eq!(trust.guess(&text, 8, |_| false).len(), 2);
        trust.learn(2, 2, 10);
        assert_eq!(trust.guess(&text, 8, |_| false).len(), 4);
        trust.learn(4, 0, 10);
        assert!(trust.guess(&text, 8, |_| false).is_empty());
    }
}

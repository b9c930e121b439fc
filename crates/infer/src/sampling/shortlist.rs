//! Drawing from the likeliest tokens alone, where that gives the very same token as drawing from all.

use super::{Sampling, by_weight, nucleus, pick, weight_of};

/// How far [`Shortlist::total`] may be off: it is summed in f32, in parts of a few hundred numbers, which is far better.
const TOTAL_ERROR: f64 = 1e-4;

/// The likeliest tokens of a position, and what can be said of the rest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shortlist {
    /// Token and logit, best first. No other token has a larger logit than the last of these.
    best: Vec<(u32, f32)>,
    /// Sum of `exp((logit - largest) / temperature)` over the vocabulary.
    total: f64,
}

/// The logits at one position: all of them, or as many as are needed.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    /// [vocab]
    Whole(Vec<f32>),
    /// Enough for the sampling that asked.
    Short(Shortlist),
}

impl Shortlist {
    /// Tokens and logits in any order, all of them finite, and the sum over all tokens.
    pub(crate) fn new(mut best: Vec<(u32, f32)>, total: f64) -> Self {
        best.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Self { best, total }
    }

    /// Whether a sampling can ever do with a shortlist: it must not change logits, nor ask for probabilities, nor draw from
    /// the whole distribution.
    pub(crate) fn may_serve(sampling: &Sampling) -> bool {
        let plain = sampling.constraint.is_none()
            && sampling.logprobs.is_none()
            && sampling.logit_bias.is_empty()
            && sampling.repetition_penalty == 1.0
            && sampling.frequency_penalty == 0.0
            && sampling.presence_penalty == 0.0;
        let cut = sampling.top_k > 0 || sampling.top_p < 1.0 || sampling.min_p > 0.0;
        plain && (sampling.temperature == 0.0 || cut)
    }

    /// Whether it is enough for a sampling that it [may serve](Shortlist::may_serve).
    pub(crate) fn serves(&self, sampling: &Sampling) -> bool {
        match sampling.temperature == 0.0 {
            // Among equals the lowest id is taken, so all of them must be here.
            true => self.best.first().zip(self.best.last()).is_some_and(|(first, last)| first.1 > last.1),
            false => self.kept(sampling).is_some(),
        }
    }

    /// The token that is drawn from the whole row, with `u` of [0, 1). `None` if that cannot be told.
    pub(crate) fn draw(&self, sampling: &Sampling, u: f64) -> Option<u32> {
        match sampling.temperature == 0.0 {
            true => self.best.first().map(|best| best.0),
            false => pick(&self.kept(sampling)?, u),
        }
    }

    /// What the filters leave, with the same weights and in the same order as of the whole row.
    fn kept(&self, sampling: &Sampling) -> Option<Vec<(u32, f64)>> {
        let weight = weight_of(self.best.first()?.1, sampling.temperature);
        let mut kept: Vec<(u32, f64)> =
            self.best.iter().map(|&(token, logit)| (token, weight(logit))).collect();
        // Rounding may make weights equal whose logits are not; then the ids decide.
        kept.sort_unstable_by(by_weight);
        let least = kept.last()?.1;
        let by_id = sampling.top_k == 0 && sampling.top_p >= 1.0;
        let mut total = [self.total * (1.0 - TOTAL_ERROR), self.total * (1.0 + TOTAL_ERROR)];
        if sampling.top_k > 0 {
            if sampling.top_k >= kept.len() {
                return None;
            }
            kept.truncate(sampling.top_k);
            total = [kept.iter().map(|k| k.1).sum(); 2];
        }
        if sampling.top_p < 1.0 {
            let [low, high] = total.map(|total| nucleus(&kept, total * f64::from(sampling.top_p)));
            match (low, high) {
                (Some(low), Some(high)) if low == high => kept.truncate(low + 1),
                // With top_k all that there is to be had is here.
                (None, None) if sampling.top_k > 0 => {}
                _ => return None,
            }
        }
        // Those that are not here have the last one's weight at most, and a higher or a lower id.
        if !by_id && kept.last()?.1 <= least {
            return None;
        }
        if sampling.min_p > 0.0 {
            if by_id && least >= f64::from(sampling.min_p) {
                return None;
            }
            kept.retain(|k| k.1 >= f64::from(sampling.min_p));
        }
        if by_id {
            kept.sort_unstable_by_key(|k| k.0);
        }
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::uniform;
    use crate::sampling::{argmax, draw_filtered};

    /// 600 logits, of which some are equal, and their 64 best.
    fn row(seed: u64, temperature: f32) -> (Vec<f32>, Shortlist) {
        let number = |i: u64| uniform(seed, 3, i);
        let logits: Vec<f32> =
            (0..600).map(|i| ((number(i).powi(3) * 400.0).round() / 20.0) as f32).collect();
        let mut best: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, l)| (i as u32, *l)).collect();
        best.sort_by(|a, b| b.1.total_cmp(&a.1));
        let top = best[0].1;
        let total = logits.iter().map(|l| (f64::from(l - top) / f64::from(temperature)).exp()).sum();
        best.truncate(64);
        best.reverse();
        (logits, Shortlist::new(best, total))
    }

    #[test]
    fn a_shortlist_gives_the_token_of_the_whole_row() {
        let base = Sampling::default();
        let mut served = [0; 6];
        for seed in 0..200 {
            for (kind, sampling) in [
                Sampling { temperature: 0.0, ..base.clone() },
                Sampling { top_k: 20, ..base.clone() },
                Sampling { top_p: 0.8, temperature: 0.7, ..base.clone() },
                Sampling { top_p: 0.95, ..base.clone() },
                Sampling { top_k: 40, top_p: 0.9, min_p: 0.02, temperature: 1.5, ..base.clone() },
                Sampling { min_p: 0.2, temperature: 0.5, ..base.clone() },
            ]
            .into_iter()
            .enumerate()
            {
                assert!(Shortlist::may_serve(&sampling));
                let (logits, short) = row(seed, sampling.temperature.max(0.1));
                if !short.serves(&sampling) {
                    continue;
                }
                served[kind] += 1;
                for i in 0..40 {
                    let u = uniform(seed, 9, i);
                    let whole = match sampling.temperature == 0.0 {
                        true => argmax(&logits),
                        false => draw_filtered(&sampling, &logits, u),
                    };
                    assert_eq!(short.draw(&sampling, u), Some(whole), "{sampling:?}");
                }
            }
        }
        assert!(served.iter().all(|n| *n > 50), "{served:?}");
    }

    #[test]
    fn what_a_shortlist_cannot_tell_it_does_not() {
        let of = |logits: &[f32]| {
            let best = logits.iter().enumerate().map(|(i, l)| (i as u32, *l)).collect();
            Shortlist::new(best, 100.0)
        };
        let base = Sampling::default();
        let greedy = Sampling { temperature: 0.0, ..base.clone() };
        assert!(!of(&[2.0, 2.0]).serves(&greedy) && of(&[2.0, 1.0]).serves(&greedy));
        // The nucleus goes beyond what is here.
        assert!(!of(&[2.0, 1.0, 0.0]).serves(&Sampling { top_p: 0.9, ..base.clone() }));
        // The last one taken may have an equal that is not here.
        assert!(!of(&[2.0, 1.0, 1.0]).serves(&Sampling { top_k: 2, ..base.clone() }));
        assert!(of(&[2.0, 1.0, 0.5]).serves(&Sampling { top_k: 2, ..base.clone() }));
        assert!(!of(&[2.0, 1.9, 1.8]).serves(&Sampling { min_p: 0.1, ..base.clone() }));
        for sampling in [
            base.clone(),
            Sampling { logprobs: Some(0), top_k: 3, ..base.clone() },
            Sampling { frequency_penalty: 0.1, top_k: 3, ..base.clone() },
            Sampling { repetition_penalty: 1.1, ..greedy },
        ] {
            assert!(!Shortlist::may_serve(&sampling), "{sampling:?}");
        }
    }
}

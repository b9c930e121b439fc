//! Direct preference optimisation with Llama 3's two changes (SPEC POST-6; arXiv 2305.18290, equation 7).

use super::negative_log_sigmoid;

/// Log-probabilities of one pair. The lists hold only the tokens that count: the caller has left out headers and
/// terminators, in both responses and in the reference's sums alike.
#[derive(Debug, Clone, Copy)]
pub struct PairLogprobs<'a> {
    /// Policy's log p of each counted token of the chosen response.
    pub chosen: &'a [f64],
    /// The same for the rejected response.
    pub rejected: &'a [f64],
    /// Reference's summed log p of the chosen response.
    pub reference_chosen: f64,
    /// Reference's summed log p of the rejected response.
    pub reference_rejected: f64,
}

/// The two coefficients of the loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dpo {
    /// Strength of the pull to the reference; the paper's 0.1.
    pub beta: f64,
    /// Coefficient of the negative log-likelihood of the chosen responses; the paper's 0.2.
    pub nll: f64,
}

/// What [`Dpo::evaluate`] gives: the loss, its parts, its gradient, and what one watches in training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DpoOutcome {
    /// `preference + nll coefficient * nll`.
    pub loss: f64,
    /// Mean over pairs of `-log sigmoid(beta * ((c - c_ref) - (r - r_ref)))`.
    pub preference: f64,
    /// Mean over all chosen tokens of the batch of `-log p`.
    pub nll: f64,
    /// For each pair the derivative of `loss` by the log p of every chosen and of every rejected token: all tokens of
    /// a response share it.
    pub gradient: Vec<(f64, f64)>,
    /// Mean summed log p of the chosen responses.
    pub chosen: f64,
    /// Mean summed log p of the rejected responses.
    pub rejected: f64,
    /// Mean of the implicit reward `beta * (c - c_ref)`.
    pub reward_chosen: f64,
    /// Mean of the implicit reward `beta * (r - r_ref)`.
    pub reward_rejected: f64,
    /// Mean of the difference of the two rewards.
    pub margin: f64,
    /// Share of pairs with a positive margin.
    pub accuracy: f64,
}

impl Dpo {
    /// The loss of a batch. Its value and gradient are those of TRL's `loss_type = ["sigmoid", "sft"]` with weights
    /// `[1, nll]`: the preference term sums a response's tokens, the likelihood term is a mean over the batch's tokens.
    pub fn evaluate(&self, batch: &[PairLogprobs]) -> DpoOutcome {
        self.evaluate_part(batch, batch.len(), batch.iter().map(|p| p.chosen.len()).sum())
    }

    /// The share that `part` has in the loss of a batch of `pairs` pairs, whose chosen responses have `chosen_tokens`
    /// counted tokens: all numbers of the parts of a batch add up to those of the whole.
    pub fn evaluate_part(&self, part: &[PairLogprobs], pairs: usize, chosen_tokens: usize) -> DpoOutcome {
        let mut outcome = DpoOutcome::default();
        let per_pair = 1.0 / pairs.max(1) as f64;
        let per_token = 1.0 / chosen_tokens.max(1) as f64;
        for pair in part {
            let (chosen, rejected) = (pair.chosen.iter().sum::<f64>(), pair.rejected.iter().sum::<f64>());
            let reward_chosen = self.beta * (chosen - pair.reference_chosen);
            let reward_rejected = self.beta * (rejected - pair.reference_rejected);
            let margin = reward_chosen - reward_rejected;
            let (value, slope) = negative_log_sigmoid(margin);
            outcome.preference += per_pair * value;
            outcome.nll -= per_token * chosen;
            let pull = per_pair * slope * self.beta;
            outcome.gradient.push((pull - self.nll * per_token, -pull));
            outcome.chosen += per_pair * chosen;
            outcome.rejected += per_pair * rejected;
            outcome.reward_chosen += per_pair * reward_chosen;
            outcome.reward_rejected += per_pair * reward_rejected;
            outcome.margin += per_pair * margin;
            outcome.accuracy += if margin > 0.0 { per_pair } else { 0.0 };
        }
        outcome.loss = outcome.preference + self.nll * outcome.nll;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAPER: Dpo = Dpo { beta: 0.1, nll: 0.2 };

    type Pair = (Vec<f64>, Vec<f64>, f64, f64);

    fn evaluate(pairs: &[Pair]) -> DpoOutcome {
        let batch: Vec<PairLogprobs> = pairs
            .iter()
            .map(|(chosen, rejected, c, r)| PairLogprobs {
                chosen,
                rejected,
                reference_chosen: *c,
                reference_rejected: *r,
            })
            .collect();
        PAPER.evaluate(&batch)
    }

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let pairs: Vec<Pair> = vec![
            (vec![-1.0, -0.3, -2.0], vec![-0.5], -4.0, -3.0),
            (vec![-7.0], vec![-0.1, -9.0], -1.0, -30.0),
        ];
        let gradient = evaluate(&pairs).gradient;
        let step = 1e-6;
        for p in 0..pairs.len() {
            for side in 0..2 {
                let tokens = if side == 0 { pairs[p].0.len() } else { pairs[p].1.len() };
                for t in 0..tokens {
                    let at = |delta: f64| {
                        let mut moved = pairs.clone();
                        if side == 0 {
                            moved[p].0[t] += delta
                        } else {
                            moved[p].1[t] += delta
                        }
                        evaluate(&moved).loss
                    };
                    let numeric = (at(step) - at(-step)) / (2.0 * step);
                    let ours = if side == 0 { gradient[p].0 } else { gradient[p].1 };
                    assert!(
                        (numeric - ours).abs() < 1e-9,
                        "pair {p} side {side} token {t}: {numeric} {ours}"
                    );
                }
            }
        }
    }

    #[test]
    fn parts_add_up_to_the_batch() {
        let (first, second) = ([-1.0, -0.3, -2.0], [-7.0]);
        let pair = |chosen, rejected, reference| PairLogprobs {
            chosen,
            rejected,
            reference_chosen: reference,
            reference_rejected: reference,
        };
        let batch = [pair(&first, &second, -4.0), pair(&second, &first, -3.0)];
        let whole = PAPER.evaluate(&batch);
        let parts = [0, 1].map(|i| PAPER.evaluate_part(&batch[i..=i], 2, 4));
        assert!((whole.loss - parts[0].loss - parts[1].loss).abs() < 1e-15);
        assert!((whole.margin - parts[0].margin - parts[1].margin).abs() < 1e-15);
        assert_eq!(whole.gradient, [parts[0].gradient[0], parts[1].gradient[0]]);
    }

    #[test]
    fn a_policy_equal_to_its_reference_has_log_two_and_no_margin() {
        let outcome = evaluate(&[(vec![-1.0, -2.0], vec![-4.0], -3.0, -4.0)]);
        assert!((outcome.preference - 2f64.ln()).abs() < 1e-15);
        assert_eq!((outcome.margin, outcome.accuracy, outcome.nll), (0.0, 0.0, 1.5));
        assert!((outcome.loss - (2f64.ln() + 0.3)).abs() < 1e-15);
    }
}

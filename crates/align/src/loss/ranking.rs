//! Loss of the reward model (SPEC POST-3; Llama 2, arXiv 2307.09288, equation 2, without its margin).

use super::negative_log_sigmoid;

/// What [`ranking`] gives.
#[derive(Debug, Clone, PartialEq)]
pub struct RankingOutcome {
    /// Mean over the ordered pairs of `-log sigmoid(r_better - r_worse)`.
    pub loss: f64,
    /// Derivative of `loss` by each reward, in the shape of the input.
    pub gradient: Vec<Vec<f64>>,
    /// Ordered pairs, over all groups.
    pub pairs: usize,
    /// Pairs in which the better response has the greater reward; a tie counts half.
    pub correct: f64,
    /// Mean of `r_better - r_worse`.
    pub margin: f64,
}

/// Ordered pairs among `responses` ranked responses.
pub fn ordered_pairs(responses: usize) -> usize {
    responses * responses.saturating_sub(1) / 2
}

/// `groups` holds the rewards of the responses to one prompt each, *best first*: `[edited, chosen, rejected]` or
/// `[chosen, rejected]`. Every ordered pair of a group counts: three for a triple, one for a pair.
///
/// loss = 1/P sum over pairs of `-log sigmoid(r_better - r_worse)`, P the number of pairs in all groups.
pub fn ranking(groups: &[Vec<f64>]) -> RankingOutcome {
    ranking_part(groups, groups.iter().map(|g| ordered_pairs(g.len())).sum())
}

/// The share that `groups` have in the loss of a batch with `batch_pairs` ordered pairs: losses, margins and gradients
/// of the parts of a batch add up to those of the whole.
pub fn ranking_part(groups: &[Vec<f64>], batch_pairs: usize) -> RankingOutcome {
    let pairs = groups.iter().map(|g| ordered_pairs(g.len())).sum();
    let weight = if batch_pairs == 0 { 0.0 } else { 1.0 / batch_pairs as f64 };
    let mut outcome = RankingOutcome { loss: 0.0, gradient: Vec::new(), pairs, correct: 0.0, margin: 0.0 };
    for rewards in groups {
        let mut gradient = vec![0.0; rewards.len()];
        for better in 0..rewards.len() {
            for worse in better + 1..rewards.len() {
                let difference = rewards[better] - rewards[worse];
                let (value, slope) = negative_log_sigmoid(difference);
                outcome.loss += weight * value;
                outcome.margin += weight * difference;
                outcome.correct += match difference {
                    d if d > 0.0 => 1.0,
                    0.0 => 0.5,
                    _ => 0.0,
                };
                gradient[better] += weight * slope;
                gradient[worse] -= weight * slope;
            }
        }
        outcome.gradient.push(gradient);
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let groups = vec![vec![0.3, -0.2, 1.1], vec![-2.0, 0.5], vec![4.0, 4.0]];
        let outcome = ranking(&groups);
        assert_eq!(outcome.pairs, 5);
        let step = 1e-6;
        for (g, rewards) in groups.iter().enumerate() {
            for r in 0..rewards.len() {
                let at = |delta: f64| {
                    let mut moved = groups.clone();
                    moved[g][r] += delta;
                    ranking(&moved).loss
                };
                let numeric = (at(step) - at(-step)) / (2.0 * step);
                assert!((numeric - outcome.gradient[g][r]).abs() < 1e-9, "{g} {r}: {numeric}");
            }
        }
    }

    #[test]
    fn parts_add_up_to_the_batch() {
        let groups = vec![vec![0.3, -0.2, 1.1], vec![-2.0, 0.5], vec![4.0, 4.5]];
        let (whole, parts) =
            (ranking(&groups), [ranking_part(&groups[..1], 5), ranking_part(&groups[1..], 5)]);
        assert!((whole.loss - parts[0].loss - parts[1].loss).abs() < 1e-15);
        assert!((whole.margin - parts[0].margin - parts[1].margin).abs() < 1e-15);
        assert_eq!(whole.gradient, [&parts[0].gradient[..], &parts[1].gradient].concat());
    }

    #[test]
    fn a_triple_is_three_ordered_pairs() {
        let triple = ranking(&[vec![2.0, 1.0, 0.0]]);
        let pairs = ranking(&[vec![2.0, 1.0], vec![2.0, 0.0], vec![1.0, 0.0]]);
        assert!((triple.loss - pairs.loss).abs() < 1e-15);
        assert_eq!((triple.correct, triple.pairs), (3.0, 3));
        assert_eq!(ranking(&[vec![0.0, 1.0]]).correct, 0.0);
        assert_eq!(ranking(&[]).loss, 0.0, "no pairs, no loss");
    }
}

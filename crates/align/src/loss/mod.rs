//! The losses of post-training as plain functions: values in, loss and gradient out, in f64. They stand outside the
//! tape, which is seeded with their gradients ([`Tape::backward_from`](herd_tensor::Tape::backward_from)), so each can
//! be checked alone by finite differences and against TRL.

mod dpo;
mod ranking;

pub use dpo::{Dpo, DpoOutcome, PairLogprobs};
pub use ranking::{RankingOutcome, ordered_pairs, ranking, ranking_part};

/// `-log sigmoid(x)` and its derivative `-sigmoid(-x)`, exact for every finite `x`.
pub(crate) fn negative_log_sigmoid(x: f64) -> (f64, f64) {
    // softplus(-x) by the form whose exponential cannot overflow.
    let value = (-x.abs()).exp().ln_1p() + (-x).max(0.0);
    let sigmoid_of_minus = if x >= 0.0 { (-x).exp() / (1.0 + (-x).exp()) } else { 1.0 / (1.0 + x.exp()) };
    (value, -sigmoid_of_minus)
}

#[cfg(test)]
mod tests {
    use super::negative_log_sigmoid;

    #[test]
    fn log_sigmoid_is_exact_far_from_zero() {
        assert_eq!(negative_log_sigmoid(-800.0), (800.0, -1.0));
        let (value, slope) = negative_log_sigmoid(800.0);
        assert!((0.0..1e-300).contains(&value) && (-1e-300..=0.0).contains(&slope));
        let (value, slope) = negative_log_sigmoid(0.0);
        assert!((value - 2f64.ln()).abs() < 1e-15 && (slope + 0.5).abs() < 1e-15);
    }
}

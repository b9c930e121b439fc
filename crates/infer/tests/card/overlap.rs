//! Kernels that begin before those in front of them have ended.

use crate::fake_card;
use crate::models::{Shape, open_both};
use crate::settings;
use crate::tiny::prompt;
use herd_infer::Sampling;
use herd_tensor::cuda::DEPENDENT;

/// Every kernel of the list does, in steps of one row and of several, as graphs and before they are; the answers and all their
/// probabilities are those of steps without. Between them the shapes have every kernel of attention, and a vocabulary that is
/// searched in parts.
#[test]
fn steps_that_overlap_have_the_bits_of_steps_that_do_not() {
    let card = fake_card::open();
    if !card.overlaps() {
        assert!(fake_card::is_real(), "the fake card is new enough");
        return;
    }
    let shapes = [
        Shape { heads: 2, kv_heads: 1, head_dim: 16, float: true, vocab: 4500, ..Shape::default() },
        Shape { heads: 4, kv_heads: 2, head_dim: 64, ..Shape::default() },
        Shape { heads: 3, kv_heads: 1, head_dim: 128, tied: true, ..Shape::default() },
    ];
    for shape in shapes {
        let answers = |overlap| {
            card.set_overlap(overlap);
            let [_, on_card] = open_both(&card, &shape, &settings());
            let sampling = Sampling { ignore_end: true, seed: 5, ..Sampling::greedy(6) };
            [(1, None), (1, Some(2)), (5, Some(2))].map(|(count, logprobs)| {
                let prompts: Vec<_> = (0..count).map(|i| prompt(30 + 9 * i, i as u32)).collect();
                let answer = on_card.generate(&prompts, 1, &Sampling { logprobs, ..sampling.clone() });
                assert!(on_card.graphs() > 0, "steps of {count} rows are captured");
                answer.unwrap()
            })
        };
        assert_eq!(answers(true), answers(false));
    }
    if !fake_card::is_real() {
        for kernel in DEPENDENT {
            assert!(fake_card::begun_early(kernel) > 0, "{kernel} is one of a chain");
        }
    }
}

//! Twenty training steps give the same bits with 1, 2 and 3 threads, with and without recomputation.

mod model;

use herd_tensor::{Attention, AttentionShape, CounterRng, Grads, RopeTable, Segments};
use model::{Sizes, model};
use std::sync::Arc;

fn train(threads: usize, recompute: bool) -> (Vec<u32>, Vec<u32>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 16 };
        let sizes = Sizes { vocabulary: 700, d: 64, f: 96, layers: 2 };
        let (model, mut params) = model(&sizes, shape.packed_width(), 64);
        let lengths = [150, 333, 40];
        let positions: Vec<u32> = lengths.iter().flat_map(|n| 0..*n as u32).collect();
        let call = Attention {
            shape,
            segments: Arc::new(Segments::documents(&lengths)),
            rope: Some(RopeTable::new(16, 500_000.0, None, 400).at(&positions)),
        };
        let rng = CounterRng::new(5, "tokens");
        let mut losses = Vec::new();
        let mut grads = Grads::new(&params);
        for step in 0..20u64 {
            let tokens: Vec<u32> = (0..524).map(|i| (rng.bits(step * 1000 + i) % 700) as u32).collect();
            grads.zero();
            losses.push(model.step(&params, &mut grads, &tokens, &call, recompute).to_bits());
            for (p, g) in params.flat_mut().iter_mut().zip(grads.flat()) {
                *p -= 0.5 * g;
            }
        }
        assert!(f32::from_bits(losses[19]) < f32::from_bits(losses[0]), "training does not reduce the loss");
        (losses, params.flat().iter().map(|p| p.to_bits()).collect())
    })
}

#[test]
fn threads_and_recomputation_do_not_change_the_bits() {
    let one = train(1, false);
    for (threads, recompute) in [(2, false), (3, false), (1, true), (2, true)] {
        let other = train(threads, recompute);
        assert_eq!(one.0, other.0, "losses with {threads} threads, recompute {recompute}");
        assert!(one.1 == other.1, "parameters with {threads} threads, recompute {recompute}");
    }
}

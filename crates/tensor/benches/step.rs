//! Forward and backward of a training step of the size of workload W1 (dim 512, 8 layers, 8 heads, 2 key/value heads, FFN
//! 1536, vocabulary 32,000, 4 x 512 tokens): `cargo bench -p herd-tensor --bench step [-- THREADS [STEPS [CONTEXT]]]`.

#[path = "../tests/model/mod.rs"]
mod model;

use herd_tensor::{Attention, AttentionShape, Grads, RopeTable, Segments, pool};
use model::{Sizes, model};
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let threads = numbers.next().unwrap_or(2);
    let steps = numbers.next().unwrap_or(5);
    let context = numbers.next().unwrap_or(512);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("first use of the pool");
    let shape = AttentionShape { heads: 8, kv_heads: 2, head_dim: 64 };
    let sizes = Sizes { vocabulary: 32_000, d: 512, f: 1536, layers: 8 };
    let (model, params) = model(&sizes, shape.packed_width(), 512);
    let mut grads = Grads::new(&params);
    let n = context.max(2048);
    let lengths = vec![context; n / context];
    let positions: Vec<u32> = (0..n).map(|i| (i % context) as u32).collect();
    let call = Attention {
        shape,
        segments: Arc::new(Segments::documents(&lengths)),
        rope: Some(RopeTable::new(64, 500_000.0, None, context).at(&positions)),
    };
    let tokens: Vec<u32> = (0..=n as u64).map(|i| (i * 2_654_435_761 % 32_000) as u32).collect();
    println!("{} parameters, {n} tokens, {threads} threads", params.count());
    for step in 0..steps {
        let start = Instant::now();
        grads.zero();
        let loss = model.step(&params, &mut grads, &tokens, &call, false);
        let usage = pool::usage();
        println!(
            "step {step}: {:.3} s, loss {loss:.4}, {:.0} tokens/s, peak in use {} MB, held {} MB",
            start.elapsed().as_secs_f64(),
            n as f64 / start.elapsed().as_secs_f64(),
            usage.peak_live >> 20,
            (usage.live + usage.idle) >> 20,
        );
    }
}

//! Every operator by itself, forward and backward, at the sizes of workload W1 (2,048 rows): `cargo bench -p herd-tensor
//! --bench operators [-- NAME]`. For developers: numbers of one machine from one change to the next.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use herd_tensor::{
    Attention, AttentionShape, Grads, Init, ParamId, ParamSpec, Params, RopeTable, Segments, Tape, Tensor,
    Var,
};
use std::sync::Arc;

const ROWS: usize = 2048;
const D: usize = 512;
const FFN: usize = 1536;
const VOCABULARY: usize = 32_000;
const SHAPE: AttentionShape = AttentionShape { heads: 8, kv_heads: 2, head_dim: 64 };

/// An operator of an input `[ROWS, width]` and a weight.
fn operator(
    c: &mut Criterion,
    name: &str,
    width: usize,
    weight: &[usize],
    apply: &dyn Fn(&mut Tape, &Var, ParamId) -> Var,
) {
    let mut params = Params::new(vec![
        ParamSpec::new("input", &[ROWS, width], Init::Normal { std: 1.0 }),
        ParamSpec::new("weight", weight, Init::Normal { std: 0.05 }),
    ]);
    params.initialize(1);
    let [input, weight] = ["input", "weight"].map(|name| params.id(name).expect("just made"));
    let ids: Vec<u32> = (0..ROWS as u32).collect();
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(20);
    let x = Tape::no_grad(&params).embedding(input, &ids);
    group.bench_function("forward", |b| b.iter(|| apply(&mut Tape::no_grad(&params), &x, weight)));
    let mut grads = Grads::new(&params);
    group.bench_function("backward", |b| {
        b.iter_batched(
            || {
                let mut tape = Tape::new(&params);
                let x = tape.embedding(input, &ids);
                let out = apply(&mut tape, &x, weight);
                let seed = Tensor::from_vec(vec![1e-3; out.value().len()], out.shape());
                (tape, out, seed)
            },
            |(tape, out, seed)| tape.backward_from([(out, seed)], &mut grads),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn operators(c: &mut Criterion) {
    let targets: Vec<u32> =
        (0..ROWS as u64).map(|i| (i * 2_654_435_761 % VOCABULARY as u64) as u32).collect();
    let weights = vec![1.0 / ROWS as f32; ROWS];
    let positions: Vec<u32> = (0..ROWS as u32).map(|i| i % 512).collect();
    let rope = RopeTable::new(SHAPE.head_dim, 500_000.0, None, ROWS).at(&positions);
    let attention = |lengths: &[usize]| Attention {
        shape: SHAPE,
        segments: Arc::new(Segments::documents(lengths)),
        rope: Some(rope.clone()),
    };
    let (short, long) = (attention(&[512; 4]), attention(&[ROWS]));
    let packed = SHAPE.packed_width();
    let none: &[usize] = &[1];

    operator(c, "rms_norm", D, &[D], &|tape, x, w| tape.rms_norm(x, w, 1e-5));
    operator(c, "linear to gate and up", D, &[2 * FFN, D], &|tape, x, w| tape.linear(x, w));
    operator(c, "linear from the feed-forward, added", FFN, &[D, FFN], &|tape, x, w| {
        let residual = tape.constant(Tensor::zeros(&[ROWS, D]));
        tape.linear_add(x, w, &residual)
    });
    operator(c, "swiglu", 2 * FFN, none, &|tape, x, _| tape.swiglu(x));
    operator(c, "rope", D, none, &|tape, x, _| tape.rope(x, &rope));
    operator(c, "add", D, none, &|tape, x, _| tape.add(x, x));
    operator(c, "attention over 4 x 512", packed, none, &|tape, x, _| tape.attention(x, &short));
    operator(c, "attention over 2,048", packed, none, &|tape, x, _| tape.attention(x, &long));
    operator(c, "cross-entropy", D, &[VOCABULARY, D], &|tape, x, w| {
        tape.linear_cross_entropy(x, w, &targets, &weights)
    });
    operator(c, "token log-probabilities", D, &[VOCABULARY, D], &|tape, x, w| {
        tape.token_logprobs(x, w, &targets)
    });
}

criterion_group!(benches, operators);
criterion_main!(benches);

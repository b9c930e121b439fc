//! Attention on a card in bf16 and f32, with and without tensor cores, row by row: a key that is missed or seen by mistake
//! changes its row by more than rounding does, wherever the row is.

use super::check::{params, rows};
use super::fake_card;
use herd_tensor::cuda::{Card, CudnnUse, DType};
use herd_tensor::{
    Attention, AttentionShape, CounterRng, Grads, ParamId, Params, RopeTable, Segment, Segments, Tape,
    Tensor, reference,
};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

const THETA: f64 = 10_000.0;

/// Several tiles of 64 and of 32 rows, the last one not whole; pairs of tiles of every kind.
fn layouts() -> [(&'static str, Segments); 5] {
    let shared = Segments::new(vec![
        Segment { rows: 0..130, prefix: 0..0 },
        Segment { rows: 130..270, prefix: 0..130 },
        Segment { rows: 270..281, prefix: 10..100 },
        Segment { rows: 281..300, prefix: 0..0 },
    ]);
    [
        ("one row", Segments::causal(1)),
        ("causal", Segments::causal(200)),
        ("equal lengths", Segments::documents(&[130, 130])),
        ("documents", Segments::documents(&[3, 61, 64, 1, 70, 130])),
        ("shared prompt", shared),
    ]
}

/// The output and the gradient of `qkv` for a seed, as rows.
fn both_passes(params: &Params, x: ParamId, call: &Attention, seed: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let mut tape = Tape::new(params);
    let input = rows(&mut tape, x);
    let out = tape.attention(&input, call);
    let mut grads = Grads::new(params);
    tape.backward_from([(out.clone(), Tensor::from_slice(seed, out.shape()))], &mut grads);
    (out.value().to_host().as_slice().to_vec(), grads.of(x).to_vec())
}

/// Every row of some columns beside what is right, relative to the largest value of the row, or to a tenth of what is usual.
fn assert_rows(what: &str, card: &[f32], right: &[f64], width: usize, columns: Range<usize>, tolerance: f64) {
    assert_eq!(card.len(), right.len(), "{what}: values");
    let squares: f64 = right.chunks(width).flat_map(|row| &row[columns.clone()]).map(|x| x * x).sum();
    let usual = (squares / (right.len() / width * columns.len()) as f64).sqrt();
    let mut worst = (0.0, 0);
    for (i, (card, right)) in card.chunks(width).zip(right.chunks(width)).enumerate() {
        let (card, right) = (&card[columns.clone()], &right[columns.clone()]);
        let scale = right.iter().fold((0.1 * usual).max(1e-3), |most, x| most.max(x.abs()));
        for (a, b) in card.iter().zip(right) {
            let error = (f64::from(*a) - b).abs() / scale;
            if error > worst.0 || error.is_nan() {
                worst = (error, i);
            }
        }
    }
    assert!(worst.0 <= tolerance, "{what}, row {}: off by {:.1e} of the row's largest", worst.1, worst.0);
}

/// The forward pass beside the f64 reference, the backward pass beside that of the host.
fn compare(
    card: &Card,
    dtype: DType,
    shape: AttentionShape,
    layout: &str,
    segments: &Segments,
    tolerance: f64,
) {
    let (n, hd) = (segments.rows(), shape.head_dim);
    let positions: Vec<u32> = (0..n as u32).rev().collect();
    // Documents are left as they are, so that the card gets the very numbers that the reference gets.
    let rotated = layout != "documents";
    let call = Attention {
        shape,
        segments: Arc::new(segments.clone()),
        rope: rotated.then(|| RopeTable::new(hd, THETA, None, n).at(&positions)),
    };
    let (mut host, ids) = params(&[(&[n, shape.packed_width()], 1.2)], 4);
    let exact_in_bf16 = |x: f32| f32::from_bits(x.to_bits() & 0xffff_0000);
    host.value_mut(ids[0]).iter_mut().for_each(|x| *x = exact_in_bf16(*x));
    let rng = CounterRng::new(8, "seed");
    let seed: Vec<f32> =
        (0..(n * shape.heads * hd) as u64).map(|i| exact_in_bf16(rng.normal(i) as f32)).collect();
    let mut on_card = host.clone();
    on_card.to_card(card, dtype).unwrap();
    let (out, d_qkv) = both_passes(&on_card, ids[0], &call, &seed);

    let mut x: Vec<f64> = host.value(ids[0]).iter().map(|v| f64::from(*v)).collect();
    if rotated {
        x = reference::rope_packed(&x, &shape, THETA, &positions);
    }
    let what = format!("{shape:?}, {dtype:?}, {layout}");
    let right = reference::attention(&x, &shape, segments);
    assert_rows(&what, &out, &right, shape.heads * hd, 0..shape.heads * hd, tolerance);
    let (_, right) = both_passes(&host, ids[0], &call, &seed);
    let right: Vec<f64> = right.iter().map(|g| f64::from(*g)).collect();
    let (keys, values) = (shape.heads * hd, (shape.heads + shape.kv_heads) * hd);
    let parts = [("dq", 0..keys), ("dk", keys..values), ("dv", values..shape.packed_width())];
    for (part, columns) in parts {
        let what = format!("{what}: {part}");
        // Where the terms of a sum of ds cancel, what was rounded before is left over.
        assert_rows(&what, &d_qkv, &right, shape.packed_width(), columns, 3.0 * tolerance);
    }
}

/// Every layout for a width of heads; cuDNN is used as far as is allowed.
pub fn every_layout(
    cudnn: CudnnUse,
    dtype: DType,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    tolerance: f64,
) {
    let card = fake_card::open();
    card.use_cudnn(cudnn);
    for (layout, segments) in layouts() {
        let shape = AttentionShape { heads, kv_heads, head_dim };
        compare(&card, dtype, shape, layout, &segments, tolerance);
    }
}

/// Seconds of a forward and of a backward pass on a card, medians of 20 after 3 of warm-up. The embedding that makes the input,
/// and its gradient, are measured by themselves and taken off.
pub fn seconds(
    card: &Card,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    lengths: &[usize],
) -> [f64; 2] {
    let shape = AttentionShape { heads, kv_heads, head_dim };
    let segments = Arc::new(Segments::documents(lengths));
    let n = segments.rows();
    let (mut params, ids) = params(&[(&[n, shape.packed_width()], 1.0), (&[n, heads * head_dim], 1.0)], 4);
    params.to_card(card, DType::Bf16).unwrap();
    let call = Attention { shape, segments, rope: None };
    // Gradients of the input and of the output that are on the card already.
    let [of_input, of_output] = [0, 1].map(|i| rows(&mut Tape::no_grad(&params), ids[i]).value().clone());
    let mut grads = Grads::new(&params);
    let mut run = |attend: bool| {
        let mut tape = Tape::new(&params);
        let input = rows(&mut tape, ids[0]);
        card.synchronize().unwrap();
        let begin = Instant::now();
        let out = if attend { tape.attention(&input, &call) } else { input };
        card.synchronize().unwrap();
        let forward = begin.elapsed().as_secs_f64();
        let seed = if attend { of_output.clone() } else { of_input.clone() };
        let begin = Instant::now();
        tape.backward_from([(out, seed)], &mut grads);
        card.synchronize().unwrap();
        [forward, begin.elapsed().as_secs_f64()]
    };
    let mut medians = [[0.0; 2]; 2];
    for (attend, medians) in [true, false].into_iter().zip(&mut medians) {
        let all: Vec<[f64; 2]> = (0..23).map(|_| run(attend)).skip(3).collect();
        for (pass, median) in medians.iter_mut().enumerate() {
            let mut sorted: Vec<f64> = all.iter().map(|both| both[pass]).collect();
            sorted.sort_by(f64::total_cmp);
            *median = sorted[sorted.len() / 2];
        }
    }
    let [with, without] = medians;
    [with[0], with[1] - without[1]]
}

//! The cases: every operator at sizes that do not fit its blocks.

use super::check::{Case, TOLERANCE, assert_close, params, rows};
use herd_tensor::{
    Attention, AttentionShape, CounterRng, Grads, RopeTable, Segment, Segments, Tape, Tensor, reference,
};
use std::sync::Arc;

const THETA: f64 = 10_000.0;

pub fn embedding_and_selection() {
    let ids = [2, 0, 2, 5];
    Case {
        name: "embedding",
        shapes: &[(&[6, 70], 1.0)],
        forward: &|tape, p| tape.embedding(p[0], &ids),
        reference: &|v| reference::embedding(&v[0], 70, &ids),
    }
    .check();
    Case {
        name: "select_rows",
        shapes: &[(&[5, 3], 1.0)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            tape.select_rows(&x, &[4, 1, 4])
        },
        reference: &|v| reference::embedding(&v[0], 3, &[4, 1, 4]),
    }
    .check();
}

pub fn linear() {
    for (n, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (17, 33, 18), (15, 40, 65)] {
        Case {
            name: "linear",
            shapes: &[(&[n, inputs], 1.0), (&[outputs, inputs], 1.0)],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.linear(&x, p[1])
            },
            reference: &|v| reference::linear(&v[0], &v[1], inputs),
        }
        .check();
    }
    Case {
        name: "linear_add",
        shapes: &[(&[4, 6], 1.0), (&[9, 6], 1.0), (&[4, 9], 1.0)],
        forward: &|tape, p| {
            let (x, residual) = (rows(tape, p[0]), rows(tape, p[2]));
            tape.linear_add(&x, p[1], &residual)
        },
        reference: &|v| reference::linear(&v[0], &v[1], 6).iter().zip(&v[2]).map(|(a, b)| a + b).collect(),
    }
    .check();
}

pub fn rms_norm() {
    // A few rows, and more than one thread of a card sums.
    for (n, d) in [(5, 3), (5, 30), (5, 129), (150, 4)] {
        Case {
            name: "rms_norm",
            shapes: &[(&[n, d], 1.0), (&[d], 1.0)],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.rms_norm(&x, p[1], 1e-5)
            },
            reference: &|v| reference::rms_norm(&v[0], &v[1], 1e-5),
        }
        .check();
    }
    // More rows than one task takes; the output feeds a product and a sum, so it is computed again and shared.
    Case {
        name: "rms_norm, used twice",
        shapes: &[(&[40, 12], 1.0), (&[12], 1.0), (&[12, 12], 0.5)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            let h = tape.rms_norm(&x, p[1], 1e-5);
            let y = tape.linear_add(&h, p[2], &h);
            tape.add(&y, &x)
        },
        reference: &|v| {
            let h = reference::rms_norm(&v[0], &v[1], 1e-5);
            let y = reference::linear(&h, &v[2], 12);
            (0..h.len()).map(|i| y[i] + h[i] + v[0][i]).collect()
        },
    }
    .check();
}

pub fn rope() {
    let positions = [0, 5, 3];
    let table = RopeTable::new(6, THETA, None, 8);
    Case {
        name: "rope",
        shapes: &[(&[3, 12], 1.0)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            tape.rope(&x, &table.at(&positions))
        },
        reference: &|v| reference::rope(&v[0], 12, 6, THETA, &positions),
    }
    .check();
}

pub fn swiglu() {
    Case {
        name: "swiglu",
        shapes: &[(&[4, 2 * 21], 2.0)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            tape.swiglu(&x)
        },
        reference: &|v| reference::swiglu(&v[0], 21),
    }
    .check();
    Case {
        name: "swiglu into a product",
        shapes: &[(&[4, 10], 2.0), (&[3, 5], 1.0)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            let h = tape.swiglu(&x);
            tape.linear(&h, p[1])
        },
        reference: &|v| reference::linear(&reference::swiglu(&v[0], 5), &v[1], 5),
    }
    .check();
}

/// Sizes that span several blocks of queries and keys: values against the reference, gradients along random directions
/// and single coordinates.
pub fn attention_across_blocks() {
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 40 };
    let documents = Segments::documents(&[130, 1, 230, 57]);
    let shared = Segments::new(vec![
        Segment { rows: 0..9, prefix: 0..0 },
        Segment { rows: 9..210, prefix: 0..0 },
        Segment { rows: 210..300, prefix: 9..210 },
        Segment { rows: 300..418, prefix: 20..170 },
    ]);
    for segments in [documents, shared] {
        let n = segments.rows();
        let width = shape.packed_width();
        let positions: Vec<u32> = (0..n as u32).collect();
        let call = Attention {
            shape,
            segments: Arc::new(segments.clone()),
            rope: Some(RopeTable::new(40, THETA, None, n).at(&positions)),
        };
        let (params, ids) = params(&[(&[n, width], 1.5)], 4);
        let x: Vec<f64> = params.value(ids[0]).iter().map(|v| f64::from(*v)).collect();
        let exact = |x: &[f64]| {
            reference::attention(&reference::rope_packed(x, &shape, THETA, &positions), &shape, &segments)
        };
        let mut tape = Tape::new(&params);
        let input = rows(&mut tape, ids[0]);
        let out = tape.attention(&input, &call);
        assert_close("attention across blocks", out.value().to_host().as_slice(), &exact(&x), TOLERANCE);

        let rng = CounterRng::new(8, "direction");
        let seed: Vec<f32> = (0..out.value().len() as u64).map(|i| rng.normal(i) as f32).collect();
        let mut grads = Grads::new(&params);
        tape.backward_from([(out.clone(), Tensor::from_slice(&seed, out.shape()))], &mut grads);
        let grad = grads.of(ids[0]);
        let largest = grad.iter().fold(0.0f32, |a, b| a.max(b.abs()));
        assert!(largest.is_finite());
        for trial in 0..10u64 {
            let direction: Vec<f64> = if trial < 2 {
                (0..x.len() as u64).map(|i| rng.normal((trial + 1) << 32 | i)).collect()
            } else {
                let at = rng.bits(trial) as usize % x.len();
                (0..x.len()).map(|i| if i == at { 1.0 } else { 0.0 }).collect()
            };
            let step = 1e-5;
            let loss = |sign: f64| -> f64 {
                let moved: Vec<f64> = x.iter().zip(&direction).map(|(x, d)| x + sign * step * d).collect();
                exact(&moved).iter().zip(&seed).map(|(y, s)| y * f64::from(*s)).sum()
            };
            let numeric = (loss(1.0) - loss(-1.0)) / (2.0 * step);
            let fast: f64 = grad.iter().zip(&direction).map(|(g, d)| f64::from(*g) * d).sum();
            let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
            let error = (fast - numeric).abs() / (f64::from(largest) * length);
            assert!(error < 1e-5, "attention gradient, direction {trial}: {fast} instead of {numeric}");
        }
    }
}

fn attention_case(name: &str, shape: AttentionShape, segments: Segments, rotated: bool) {
    let n = segments.rows();
    let mut positions = vec![0u32; n];
    for segment in segments.list() {
        for (i, row) in segment.rows.clone().enumerate() {
            positions[row] = (segment.prefix.len() + i) as u32;
        }
    }
    let table = RopeTable::new(shape.head_dim, THETA, None, n);
    let call = Attention {
        shape,
        segments: Arc::new(segments.clone()),
        rope: rotated.then(|| table.at(&positions)),
    };
    Case {
        name,
        shapes: &[(&[n, shape.packed_width()], 1.5)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            tape.attention(&x, &call)
        },
        reference: &|v| {
            if rotated {
                let qkv = reference::rope_packed(&v[0], &shape, THETA, &positions);
                reference::attention(&qkv, &shape, &segments)
            } else {
                reference::attention(&v[0], &shape, &segments)
            }
        },
    }
    .check();
}

pub fn attention() {
    let small = AttentionShape { heads: 2, kv_heads: 1, head_dim: 4 };
    let grouped = AttentionShape { heads: 4, kv_heads: 2, head_dim: 6 };
    attention_case("attention, one row", small, Segments::causal(1), true);
    attention_case("attention, causal", grouped, Segments::causal(19), true);
    attention_case("attention, no rope", grouped, Segments::causal(9), false);
    attention_case("attention, documents", grouped, Segments::documents(&[3, 1, 14, 7]), true);
    // A prompt of 5 rows with two answers that are blind to each other, then another document.
    let shared = Segments::new(vec![
        Segment { rows: 0..5, prefix: 0..0 },
        Segment { rows: 5..9, prefix: 0..5 },
        Segment { rows: 9..16, prefix: 0..5 },
        Segment { rows: 16..20, prefix: 0..0 },
    ]);
    attention_case("attention, shared prefix", grouped, shared, true);
}

pub fn losses() {
    let targets = [3, 0, 10, 4, 4];
    Case {
        name: "token_logprobs",
        shapes: &[(&[5, 6], 1.0), (&[11, 6], 1.0)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            tape.token_logprobs(&x, p[1], &targets)
        },
        reference: &|v| reference::token_logprobs(&v[0], &v[1], 6, &targets),
    }
    .check();
    for weights in [[0.2, 1.0, 0.5, 1.0, 2.0], [0.0, 1.0, 0.0, -0.5, 2.0], [0.0; 5]] {
        Case {
            name: "linear_cross_entropy",
            shapes: &[(&[5, 6], 1.0), (&[11, 6], 1.0)],
            forward: &|tape, p| {
                let x = rows(tape, p[0]);
                tape.linear_cross_entropy(&x, p[1], &targets, &weights)
            },
            reference: &|v| vec![reference::cross_entropy(&v[0], &v[1], 6, &targets, &weights)],
        }
        .check();
    }
}

pub fn segment() {
    let (n, d, f) = (7, 6, 5);
    Case {
        name: "segment",
        shapes: &[(&[n, d], 1.0), (&[d], 1.0), (&[2 * f, d], 0.7), (&[d, f], 0.7)],
        forward: &|tape, p| {
            let x = rows(tape, p[0]);
            let p: Vec<_> = p.to_vec();
            tape.segment(&[&x], move |tape, inputs| {
                let h = tape.rms_norm(&inputs[0], p[1], 1e-5);
                let h = tape.linear(&h, p[2]);
                let h = tape.swiglu(&h);
                tape.linear_add_last(&h, p[3], &inputs[0])
            })
        },
        reference: &|v| {
            let h = reference::rms_norm(&v[0], &v[1], 1e-5);
            let h = reference::swiglu(&reference::linear(&h, &v[2], d), f);
            reference::linear(&h, &v[3], f).iter().zip(&v[0]).map(|(a, b)| a + b).collect()
        },
    }
    .check();
}

use super::*;

fn one() -> Team {
    Team::new(1)
}

/// Reproducible numbers in -1..1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    (0..count as u64)
        .map(|i| {
            let mut z = (seed << 32 | i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ z >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            ((z >> 40) as f32 / (1u64 << 23) as f32) - 1.0
        })
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn linear_agrees_with_f64_on_odd_shapes() {
    for (m, n, k) in [(1, 1, 1), (1, 7, 5), (3, 4, 16), (7, 9, 33), (13, 70, 100), (100, 33, 64)] {
        let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
        let mut out = vec![0.0; m * n];
        linear(Isa::best(), &one(), &x, Stored::F32(&w), k, &mut out, n);
        for i in 0..m {
            for j in 0..n {
                let exact: f64 = (0..k).map(|p| f64::from(x[i * k + p]) * f64::from(w[j * k + p])).sum();
                assert!((f64::from(out[i * n + j]) - exact).abs() < 1e-5, "{m} {n} {k} at {i},{j}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_in_a_batch_on_every_instruction_set() {
    let (m, n, k) = (13, 71, 77);
    let (x, w) = (numbers(m * k, 3), numbers(n * k, 4));
    let mut reference = vec![0.0; m * n];
    linear(Isa::Portable, &one(), &x, Stored::F32(&w), k, &mut reference, n);
    for isa in Isa::available() {
        let mut together = vec![0.0; m * n];
        linear(isa, &Team::new(2), &x, Stored::F32(&w), k, &mut together, n);
        assert_eq!(bits(&together), bits(&reference), "{isa:?} against portable");
        for i in 0..m {
            let mut alone = vec![0.0; n];
            linear(isa, &one(), &x[i * k..(i + 1) * k], Stored::F32(&w), k, &mut alone, n);
            assert_eq!(bits(&alone), bits(&together[i * n..(i + 1) * n]), "{isa:?} row {i}");
        }
    }
}

#[test]
fn norm_and_gate_agree_with_their_formulas() {
    let (m, n) = (3, 37);
    let (x, weight) = (numbers(m * n, 5), numbers(n, 6));
    let gate_up = numbers(m * 2 * n, 7).iter().map(|v| v * 9.0).collect::<Vec<_>>();
    let mut reference: Option<(Vec<u32>, Vec<u32>)> = None;
    for isa in Isa::available() {
        let (mut normed, mut gated) = (vec![0.0; m * n], vec![0.0; m * n]);
        rms_norm(isa, &one(), &x, &weight, 1e-5, &mut normed);
        swiglu(isa, &one(), &gate_up, n, &mut gated);
        for i in 0..m {
            let row = &x[i * n..(i + 1) * n];
            let mean = row.iter().map(|v| f64::from(v * v)).sum::<f64>() / n as f64;
            for j in 0..n {
                let exact = f64::from(row[j]) / (mean + 1e-5).sqrt() * f64::from(weight[j]);
                assert!((f64::from(normed[i * n + j]) - exact).abs() < 1e-6);
                let (g, u) = (f64::from(gate_up[i * 2 * n + j]), f64::from(gate_up[i * 2 * n + n + j]));
                let exact = g / (1.0 + (-g).exp()) * u;
                assert!((f64::from(gated[i * n + j]) - exact).abs() < 1e-5 * (1.0 + exact.abs()));
            }
        }
        let all = (bits(&normed), bits(&gated));
        assert_eq!(*reference.get_or_insert_with(|| all.clone()), all, "{isa:?}");
    }
}

#[test]
fn attention_agrees_with_softmax_in_f64_and_does_not_depend_on_its_neighbours() {
    let (head_dim, stride, positions) = (20, 32, 41);
    let pages = positions / LANES + 1;
    let keys: Vec<Vec<f32>> = (0..pages).map(|p| numbers(head_dim * LANES, 10 + p as u64)).collect();
    let values: Vec<Vec<f32>> = (0..pages).map(|p| numbers(stride * LANES, 20 + p as u64)).collect();
    let queries: Vec<Vec<f32>> = (0..7).map(|q| numbers(head_dim, 30 + q)).collect();
    let visible: Vec<usize> = (0..7).map(|q| positions - 6 + q).collect();
    let keys: Vec<&[f32]> = keys.iter().map(Vec::as_slice).collect();
    let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
    let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
    let task = AttentionTask {
        queries: &queries,
        visible: &visible,
        keys: &keys,
        values: &values,
        value_stride: stride,
        scale: 0.3,
    };
    let mut scratch = Vec::new();
    let mut reference = vec![0.0; 7 * stride];
    attention(Isa::Portable, task, &mut scratch, &mut reference);
    for q in 0..7 {
        let score = |t: usize| -> f64 {
            let dot = |d: usize| f64::from(queries[q][d]) * f64::from(keys[t / LANES][d * LANES + t % LANES]);
            (0..head_dim).map(dot).sum::<f64>() * f64::from(0.3f32)
        };
        let total: f64 = (0..visible[q]).map(|t| score(t).exp()).sum();
        for d in 0..stride {
            let value = |t: usize| f64::from(values[t / LANES][t % LANES * stride + d]);
            let exact = (0..visible[q]).map(|t| score(t).exp() / total * value(t)).sum::<f64>();
            assert!((f64::from(reference[q * stride + d]) - exact).abs() < 1e-5, "query {q} dimension {d}");
        }
    }
    for isa in Isa::available() {
        let mut together = vec![0.0; 7 * stride];
        attention(isa, task, &mut scratch, &mut together);
        assert_eq!(bits(&together), bits(&reference), "{isa:?}");
        for q in 0..7 {
            let alone = AttentionTask { queries: &queries[q..=q], visible: &visible[q..=q], ..task };
            let mut out = vec![0.0; stride];
            attention(isa, alone, &mut scratch, &mut out);
            assert_eq!(bits(&out), bits(&together[q * stride..(q + 1) * stride]), "{isa:?} query {q}");
        }
    }
}

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

/// Attention over a whole past, one stretch after the other.
fn over_stretches(
    isa: Isa,
    shape: PageShape,
    queries: &[&[f32]],
    visible: &[usize],
    pages: &[Vec<u8>],
) -> Vec<f32> {
    let (n, stride) = (queries.len(), shape.value_stride());
    let (mut taken, mut values) = (vec![Taken::NOTHING; n], vec![0.0; n * stride]);
    let mut scratch = Vec::new();
    for (number, pages) in pages.chunks(STRETCH_PAGES).enumerate() {
        let pages: Vec<&[u8]> = pages.iter().map(Vec::as_slice).collect();
        let seen = visible.iter().map(|v| v.saturating_sub(number * STRETCH).min(STRETCH));
        let visible: Vec<usize> = seen.collect();
        let task = AttentionTask { queries, visible: &visible, pages: &pages, shape, scale: 0.3 };
        let (mut next, mut more) = (taken.clone(), values.clone());
        attention(isa, task, &mut scratch, &mut next, &mut more);
        for (q, values) in values.chunks_exact_mut(stride).enumerate() {
            merge(isa, &mut taken[q], values, next[q], &more[q * stride..(q + 1) * stride]);
        }
    }
    let mut out = vec![0.0; n * shape.head_dim];
    for (q, out) in out.chunks_exact_mut(shape.head_dim).enumerate() {
        finish(taken[q], &values[q * stride..], out);
    }
    out
}

#[test]
fn attention_agrees_with_softmax_in_f64_and_does_not_depend_on_its_neighbours() {
    let (head_dim, positions) = (20, 600usize);
    let keys: Vec<Vec<f32>> = (0..positions).map(|p| numbers(head_dim, 100 + p as u64)).collect();
    let values: Vec<Vec<f32>> = (0..positions).map(|p| numbers(head_dim, 1000 + p as u64)).collect();
    let queries: Vec<Vec<f32>> = (0..7).map(|q| numbers(head_dim, 30 + q)).collect();
    let queries: Vec<&[f32]> = queries.iter().map(Vec::as_slice).collect();
    // Some see one position, or nothing of the last stretch.
    let visible = [1, 250, 256, 257, 511, 513, positions];
    for (kept, precision) in [(Kept::F32, 1e-5), (Kept::F16, 1e-3), (Kept::Q8, 2e-2)] {
        let shape = PageShape { kept, head_dim };
        let mut pages = vec![vec![0; shape.bytes()]; positions.div_ceil(LANES)];
        for (p, (key, value)) in keys.iter().zip(&values).enumerate() {
            shape.put(&mut pages[p / LANES], p % LANES, key, value);
        }
        let reference = over_stretches(Isa::Portable, shape, &queries, &visible, &pages);
        for (q, query) in queries.iter().enumerate() {
            let dot = |t: usize| query.iter().zip(&keys[t]).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            let weights: Vec<f64> = (0..visible[q]).map(|t| (dot(t) * f64::from(0.3f32)).exp()).collect();
            let total: f64 = weights.iter().sum();
            for d in 0..head_dim {
                let exact =
                    weights.iter().zip(&values).map(|(w, v)| w / total * f64::from(v[d])).sum::<f64>();
                let off = (f64::from(reference[q * head_dim + d]) - exact).abs();
                assert!(off < precision, "{kept:?} query {q} dimension {d}: off by {off}");
            }
        }
        for isa in Isa::available() {
            let together = over_stretches(isa, shape, &queries, &visible, &pages);
            assert_eq!(bits(&together), bits(&reference), "{kept:?} {isa:?}");
            for q in 0..7 {
                // Alone, and with no more pages than it sees.
                let pages = &pages[..visible[q].div_ceil(LANES)];
                let alone = over_stretches(isa, shape, &queries[q..=q], &visible[q..=q], pages);
                assert_eq!(
                    bits(&alone),
                    bits(&together[q * head_dim..(q + 1) * head_dim]),
                    "{isa:?} query {q}"
                );
            }
        }
    }
}

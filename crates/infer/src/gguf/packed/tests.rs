use super::super::blocks::u32_at;
use super::*;
use crate::kernels::{Activations, Isa, multiply};
use crate::team::Team;

/// Rows of the test matrices: one whole panel and a partly filled one.
const ROWS: usize = 21;
const COLUMNS: usize = 512;

/// A matrix of every quantised format, made of the random blocks of `golden/make_blocks.py`: repacked, and as floats.
fn matrices() -> Vec<(BlockType, Planes, Vec<f32>)> {
    let mut rest = include_bytes!("../../../tests/golden/blocks.bin").as_slice();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (header, body) = rest.split_at(12);
        let [kind, bytes, count] = [0, 4, 8].map(|at| u32_at(header, at) as usize);
        let (blocks, after) = body.split_at(bytes);
        rest = &after[count * 4..];
        let kind = BlockType::of(kind as u32).unwrap();
        let Some(shape) = Shape::of(kind) else { continue };
        // Each row begins at another block.
        let (weights, size) = kind.block();
        let row = |r: usize| -> Vec<u8> {
            let all = blocks.chunks_exact(size).cycle().skip(r * 5 % 7).take(COLUMNS / weights);
            all.flatten().copied().collect()
        };
        let mut arena = MmapMut::map_anon(shape.matrix(ROWS, COLUMNS)).unwrap();
        let panel = shape.panel(COLUMNS / BLOCK);
        let mut floats = vec![0.0; ROWS * COLUMNS];
        let rows: Vec<Vec<u8>> = (0..ROWS).map(row).collect();
        let absent = vec![0; rows[0].len()];
        for (rows, panel) in rows.chunks(LANES).zip(arena.chunks_mut(panel)) {
            let row = |lane: usize| rows.get(lane).unwrap_or(&absent).as_slice();
            assert!(put_panel(kind, &std::array::from_fn(row), panel));
        }
        for (row, floats) in rows.iter().zip(floats.chunks_exact_mut(COLUMNS)) {
            kind.dequantise(row, floats);
        }
        all.push((kind, Planes::new(kind, (ROWS, COLUMNS), &Arc::new(arena), 0).unwrap(), floats));
    }
    assert_eq!(all.len(), 10);
    all
}

#[test]
fn repacked_rows_are_the_rows_of_the_file() {
    for (kind, planes, floats) in matrices() {
        let mut found = vec![0.0; COLUMNS];
        for (r, expected) in floats.chunks_exact(COLUMNS).enumerate() {
            planes.copy_row(r, &mut found);
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                let off = (found - expected).abs();
                assert!(off <= 1e-6 * expected.abs().max(1.0), "{kind:?} row {r} weight {i}");
            }
        }
        planes.copy_row(ROWS, &mut found);
        assert!(found.iter().all(|x| *x == 0.0), "no such row");
    }
}

/// What a row of activations is after it was made bytes: 32 numbers share the largest of them / 127.
fn rounded(row: &[f32]) -> Vec<f64> {
    let block = |x: &[f32]| {
        let scale = f64::from(x.iter().fold(0f32, |a, b| a.max(b.abs())) / 127.0);
        x.iter().map(|x| (f64::from(*x) / scale).round() * scale).collect::<Vec<f64>>()
    };
    row.chunks(BLOCK).flat_map(block).collect()
}

#[test]
fn every_product_agrees_with_f64_and_has_the_same_bits_in_any_batch_on_every_instruction_set() {
    let m = 53;
    let x: Vec<f32> = (0..m * COLUMNS).map(|i| ((i * i * 31 + i * 7) % 1009) as f32 / 300.0 - 1.6).collect();
    for (kind, planes, floats) in matrices() {
        // Twice the same matrix side by side, as query and key are.
        let (parts, stride) = ([&planes, &planes], 2 * ROWS + 3);
        let product = |isa, threads, x: &[f32]| {
            let (team, mut bytes) = (Team::new(threads), Activations::default());
            bytes.quantise(isa, &team, x, COLUMNS);
            let mut out = vec![0f32; x.len() / COLUMNS * stride];
            multiply(isa, &team, &parts, &bytes, &mut out, stride);
            out
        };
        let reference = product(Isa::Portable, 1, &x);
        for (i, (x, out)) in x.chunks_exact(COLUMNS).zip(reference.chunks_exact(stride)).enumerate() {
            let x = rounded(x);
            for r in 0..2 * ROWS {
                let w = &floats[r % ROWS * COLUMNS..][..COLUMNS];
                let terms = || x.iter().zip(w).map(|(x, w)| x * f64::from(*w));
                let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                let off = (f64::from(out[r]) - exact).abs();
                assert!(off <= 3e-6 * size, "{kind:?} row {i} column {r}: {} not {exact}", out[r]);
            }
            assert_eq!(out[2 * ROWS..], [0.0; 3], "beyond the parts");
        }
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        for isa in Isa::available() {
            for rows in 1..=m {
                let found = product(isa, 1 + rows % 3, &x[(m - rows) * COLUMNS..]);
                assert_eq!(
                    bits(&found),
                    bits(&reference[(m - rows) * stride..]),
                    "{kind:?} {isa:?} {rows} rows"
                );
            }
        }
    }
}

#[test]
fn what_is_left_over_makes_activations_of_16_bits() {
    let x: Vec<f32> = (0..3 * COLUMNS).map(|i| ((i * i * 31 + i * 7) % 1009) as f32 / 300.0 - 1.6).collect();
    for (kind, planes, floats) in matrices() {
        let matrix = crate::weights::Matrix::Planes(planes);
        let product = |isa| {
            let mut out = vec![0.0; 3 * ROWS];
            matrix.multiply_finely(isa, &Team::new(2), &x, &mut Activations::default(), &mut out);
            out
        };
        let found = product(Isa::Portable);
        for (i, (x, out)) in x.chunks_exact(COLUMNS).zip(found.chunks_exact(ROWS)).enumerate() {
            for (r, (w, out)) in floats.chunks_exact(COLUMNS).zip(out).enumerate() {
                let terms = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                assert!((f64::from(*out) - exact).abs() <= 2e-5 * size, "{kind:?} row {i} column {r}");
            }
        }
        for isa in Isa::available() {
            let bits = |x: Vec<f32>| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(product(isa)), bits(found.clone()), "{kind:?} {isa:?}");
        }
    }
}

#[test]
fn rows_of_zeros_stay_zeros() {
    let (kind, planes, _) = matrices().remove(0);
    let (team, mut bytes, mut out) = (Team::new(1), Activations::default(), vec![1.0; ROWS]);
    bytes.quantise(Isa::best(), &team, &[0.0; COLUMNS], COLUMNS);
    multiply(Isa::best(), &team, &[&planes], &bytes, &mut out, ROWS);
    assert_eq!(out, [0.0; ROWS], "{kind:?}");
}

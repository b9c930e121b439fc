use super::super::blocks::u32_at;
use super::*;
use crate::kernels::{Activations, Isa, multiply};
use crate::team::Team;

/// Rows of the test matrices: one whole panel and a partly filled one.
const ROWS: usize = 21;
const COLUMNS: usize = 512;

/// Rows of blocks, as they lie in a file.
#[derive(Clone)]
struct Rows(BlockType, Vec<Vec<u8>>);

impl PanelSource for Rows {
    fn fill(&self, panel: usize, out: &mut [u8]) {
        let absent = vec![0; self.1[0].len()];
        let row = |lane: usize| self.1.get(panel * LANES + lane).unwrap_or(&absent).as_slice();
        fill_panel(self.0, &std::array::from_fn(row), out);
    }
    fn forget(&self) {}
}

impl Rows {
    /// A matrix of them that is not packed.
    fn planes(&self) -> Planes {
        let shape = Shape::of(self.0).unwrap();
        let arena = Arc::new(Arena::new(shape.matrix(ROWS, COLUMNS)).unwrap());
        Planes::new(self.0, (ROWS, COLUMNS), Box::new(self.clone()), &arena, 0).unwrap()
    }
}

/// A matrix of every quantised format, made of the random blocks of `golden/make_blocks.py`: its rows, and as floats.
fn matrices() -> Vec<(BlockType, Rows, Vec<f32>)> {
    let mut rest = include_bytes!("../../../tests/golden/blocks.bin").as_slice();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let (header, body) = rest.split_at(12);
        let [kind, bytes, count] = [0, 4, 8].map(|at| u32_at(header, at) as usize);
        let (blocks, after) = body.split_at(bytes);
        rest = &after[count * 4..];
        let kind = BlockType::of(kind as u32).unwrap();
        if Shape::of(kind).is_none() {
            continue;
        }
        // Each row begins at another block.
        let (weights, size) = kind.block();
        let row = |r: usize| -> Vec<u8> {
            let all = blocks.chunks_exact(size).cycle().skip(r * 5 % 7).take(COLUMNS / weights);
            all.flatten().copied().collect()
        };
        let rows: Vec<Vec<u8>> = (0..ROWS).map(row).collect();
        let mut floats = vec![0.0; ROWS * COLUMNS];
        for (row, floats) in rows.iter().zip(floats.chunks_exact_mut(COLUMNS)) {
            kind.dequantise(row, floats);
        }
        all.push((kind, Rows(kind, rows), floats));
    }
    assert_eq!(all.len(), 10);
    all
}

#[test]
fn repacked_rows_are_the_rows_of_the_file() {
    for (kind, rows, floats) in matrices() {
        let planes = rows.planes();
        rows_are(&planes, kind, &floats);
        assert_eq!(planes.pack(&Team::new(2)), Shape::of(kind).unwrap().matrix(ROWS, COLUMNS));
        assert_eq!(planes.pack(&Team::new(2)), 0, "packed already");
        rows_are(&planes, kind, &floats);
    }
}

fn rows_are(planes: &Planes, kind: BlockType, floats: &[f32]) {
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
    // Enough to pack a matrix on the way.
    let m = 85;
    let x: Vec<f32> = (0..m * COLUMNS).map(|i| ((i * i * 31 + i * 7) % 1009) as f32 / 300.0 - 1.6).collect();
    for (kind, rows, floats) in matrices() {
        let planes = rows.planes();
        // Twice the same matrix side by side, as query and key are.
        let stride = 2 * ROWS + 3;
        let product_with = |planes: &Planes, isa, threads, x: &[f32]| {
            let parts = [planes, planes];
            let (team, mut bytes) = (Team::new(threads), Activations::default());
            bytes.quantise(isa, &team, x, COLUMNS, false);
            let mut out = vec![0f32; x.len() / COLUMNS * stride];
            multiply(isa, &team, &parts, &bytes, &mut out, stride);
            out
        };
        let product = |isa, threads, x: &[f32]| product_with(&planes, isa, threads, x);
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
            // Not packed before, and here only if there are many rows.
            for count in [1, 2, 7, 16, 33, m] {
                let found = product_with(&rows.planes(), isa, 3, &x[(m - count) * COLUMNS..]);
                assert_eq!(
                    bits(&found),
                    bits(&reference[(m - count) * stride..]),
                    "{kind:?} {isa:?} {count} rows"
                );
            }
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
    for (kind, rows, floats) in matrices() {
        let matrix = crate::weights::Matrix::Planes(rows.planes());
        let product_of = |isa, x: &[f32]| {
            let mut out = vec![0.0; x.len() / COLUMNS * ROWS];
            matrix.multiply_finely(isa, &Team::new(2), x, &mut Activations::default(), &mut out);
            out
        };
        let product = |isa| product_of(isa, &x);
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
            // Alone, and in a batch with groups of every size.
            for row in 0..3 {
                let alone = product_of(isa, &x[row * COLUMNS..][..COLUMNS]);
                assert_eq!(
                    bits(alone),
                    bits(found[row * ROWS..][..ROWS].to_vec()),
                    "{kind:?} {isa:?} row {row}"
                );
            }
            assert_eq!(
                bits(product_of(isa, &x.repeat(5))),
                bits(found.repeat(5)),
                "{kind:?} {isa:?} 15 rows"
            );
        }
    }
}

#[test]
fn rows_of_zeros_stay_zeros() {
    let (kind, rows, _) = matrices().remove(0);
    let planes = rows.planes();
    let (team, mut bytes, mut out) = (Team::new(1), Activations::default(), vec![1.0; ROWS]);
    bytes.quantise(Isa::best(), &team, &[0.0; COLUMNS], COLUMNS, false);
    multiply(Isa::best(), &team, &[&planes], &bytes, &mut out, ROWS);
    assert_eq!(out, [0.0; ROWS], "{kind:?}");
}

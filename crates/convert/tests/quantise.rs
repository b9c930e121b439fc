//! Quantisation: the simple formats against the `gguf` package, those of 256 weights by their error.

use herd_convert::quantise::quantise;
use herd_infer::gguf::BlockType;

fn word(bytes: &[u8]) -> [u8; 4] {
    bytes[..4].try_into().unwrap()
}

fn golden() -> (Vec<f32>, &'static [u8]) {
    let bytes = include_bytes!("golden/quantised.bin").as_slice();
    let (floats, rest) = bytes.split_at(4096 * 4);
    (floats.chunks_exact(4).map(|b| f32::from_le_bytes(word(b))).collect(), rest)
}

fn quantised(kind: BlockType, x: &[f32]) -> Vec<u8> {
    let (weights, size) = kind.block();
    let mut out = vec![0xaa; x.len() / weights * size];
    quantise(kind, x, &mut out);
    out
}

#[test]
fn simple_formats_are_those_of_the_reference() {
    let (x, mut rest) = golden();
    let mut seen = 0;
    while !rest.is_empty() {
        let kind = BlockType::of(u32::from_le_bytes(word(rest))).unwrap();
        let length = u32::from_le_bytes(word(&rest[4..])) as usize;
        let found = quantised(kind, &x);
        let expected = &rest[8..8 + length];
        assert_eq!(found.len(), length);
        if kind.block().0 == 256 {
            // A search: the error counts, not every bit.
            let (ours, theirs) = (error_of(kind, &found, &x), error_of(kind, expected, &x));
            assert!(ours <= theirs * 1.002, "{}: error {ours}, the reference's {theirs}", kind.name());
        } else {
            // Halves between two steps may be rounded either way.
            let differing = found.iter().zip(expected).filter(|(a, b)| a != b).count();
            assert!(differing * 1000 <= length, "{}: {differing} of {length} bytes differ", kind.name());
        }
        rest = &rest[8 + length..];
        seen += 1;
    }
    assert_eq!(seen, 9);
}

/// Root mean square of the error over that of the numbers.
fn relative_error(kind: BlockType, x: &[f32]) -> f64 {
    error_of(kind, &quantised(kind, x), x)
}

fn error_of(kind: BlockType, blocks: &[u8], x: &[f32]) -> f64 {
    let mut back = vec![0.0; x.len()];
    kind.dequantise(blocks, &mut back);
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = x.iter().zip(&back).map(|(a, b)| square(a - b)).sum();
    (error / x.iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

#[test]
fn every_format_loses_what_its_bits_allow() {
    let (x, _) = golden();
    for (kind, most) in [
        (BlockType::F32, 0.0),
        (BlockType::F16, 4e-4),
        (BlockType::Bf16, 3e-3),
        (BlockType::Q8_0, 0.009),
        (BlockType::Q6K, 0.03),
        (BlockType::Q5_0, 0.07),
        (BlockType::Q4K, 0.10),
        (BlockType::Q4_1, 0.12),
        (BlockType::Q4_0, 0.14),
    ] {
        let error = relative_error(kind, &x);
        assert!(error <= most, "{}: {error}", kind.name());
    }
}

#[test]
fn zeros_and_single_values_come_back() {
    for kind in [BlockType::Q8_0, BlockType::Q4_0, BlockType::Q5_0, BlockType::Q4K, BlockType::Q6K] {
        for value in [0.0, 1e-30, -3.5, 1e4] {
            let x = vec![value; 256];
            let mut back = vec![f32::NAN; 256];
            kind.dequantise(&quantised(kind, &x), &mut back);
            let off = back.iter().fold(0f32, |m, b| m.max((b - value).abs()));
            assert!(off <= value.abs() * 0.01 + 1e-20, "{} of {value}: {back:?}", kind.name());
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let (x, _) = golden();
    for kind in [BlockType::Q4K, BlockType::Q6K, BlockType::Q8_0] {
        let pool = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| quantised(kind, &x))
        };
        assert_eq!(pool(1), pool(5));
    }
}

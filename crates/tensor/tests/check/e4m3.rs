//! FP8 on a card: the codes of e4m3, rows quantised as weights and activations, and their products, against plain code.

use super::check::assert_close;
use super::fake_card;
use half::bf16;
use herd_tensor::CounterRng;
use herd_tensor::cuda::{
    Arg, Card, CardBuffer, DType, E4m3Products, Element, Grid, Mat, Product, Scales, THREADS, decode_e4m3,
};

/// What PyTorch makes of numbers (`golden/make_e4m3.py`).
const GOLDEN: &[u8] = include_bytes!("../golden/e4m3.bin");

/// The bound of activations.
const BOUND: f32 = 1200.0;

/// The code of the nearest number, the even one of two that are as near; the largest for what is larger. By search.
fn encode(x: f32) -> u8 {
    let sign = if x.is_sign_negative() { 0x80 } else { 0 };
    if x.is_nan() {
        return sign | 0x7f;
    }
    let off = |code: u8| (f64::from(decode_e4m3(code)) - f64::from(x.abs().min(448.0))).abs();
    let above = (0..126u8).find(|code| decode_e4m3(*code) >= x.abs()).unwrap_or(126);
    let below = above.saturating_sub(1);
    let nearest = match off(below).total_cmp(&off(above)) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => above,
        std::cmp::Ordering::Equal if below % 2 == 0 => below,
        std::cmp::Ordering::Equal => above,
    };
    sign | nearest
}

/// Codes of rows of `d`, and a scale for each.
fn quantise(x: &[f32], d: usize, bound: f32) -> (Vec<u8>, Vec<f32>) {
    let rows = x.chunks_exact(d).map(|row| {
        let most = row.iter().fold(0f32, |most, x| most.max(x.abs())).min(bound);
        let inverse = if most > 1e-30 { 448.0 / most } else { 0.0 };
        (row.iter().map(|x| encode(x * inverse)).collect::<Vec<u8>>(), most / 448.0)
    });
    let (codes, scales): (Vec<_>, Vec<_>) = rows.unzip();
    (codes.concat(), scales)
}

/// What codes and scales stand for.
fn values(codes: &[u8], scales: &[f32], d: usize) -> Vec<f64> {
    let value = |(i, code): (usize, &u8)| f64::from(decode_e4m3(*code)) * f64::from(scales[i / d]);
    codes.iter().enumerate().map(value).collect()
}

pub fn normal(count: usize, name: &str, deviation: f32) -> Vec<f32> {
    let rng = CounterRng::new(5, name);
    (0..count as u64).map(|i| rng.normal(i) as f32 * deviation).collect()
}

pub fn halves(values: &[f32]) -> Vec<u16> {
    values.iter().map(|x| bf16::from_f32(*x).to_bits()).collect()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}

/// `x [n, k] w [m, k]^T`.
fn product(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    let row = |x: &[f64]| {
        let dot = |w: &[f64]| x.iter().zip(w).map(|(a, b)| a * b).sum::<f64>();
        w.chunks_exact(k).map(dot).collect::<Vec<f64>>()
    };
    x.chunks_exact(k).flat_map(row).collect()
}

pub fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

pub fn int(size: usize) -> Arg {
    (size as i32).into()
}

/// A card and what its memory is read and written by.
pub struct Bench(pub Card);

impl Bench {
    pub fn put<T: bytemuck::Pod>(&self, values: &[T]) -> CardBuffer {
        CardBuffer::from_host(&self.0, values).unwrap()
    }
    pub fn room(&self, bytes: usize) -> CardBuffer {
        self.put(&vec![0xffu8; bytes])
    }
    pub fn get<T: bytemuck::Pod>(&self, buffer: &CardBuffer) -> Vec<T> {
        let mut values = vec![T::zeroed(); buffer.bytes() / size_of::<T>()];
        buffer.read(&mut values).unwrap();
        values
    }
    pub fn launch(&self, kernel: &'static str, grid: impl Into<Grid>, arguments: &[Arg]) {
        self.0.launch(DType::Bf16, kernel, grid, arguments).unwrap();
    }
    /// A kernel that makes codes and scales of rows: `before`, then the two, then `after`.
    fn rows(
        &self,
        kernel: &'static str,
        (n, d): (usize, usize),
        before: &[Arg],
        after: &[Arg],
    ) -> (Vec<u8>, Vec<f32>) {
        let (codes, scales) = (self.room(n * d), self.room(4 * n));
        self.launch(kernel, (n, 1), &[before, &[(&codes).into(), (&scales).into()], after].concat());
        (self.get(&codes), self.get(&scales))
    }
    fn quantise_f32(&self, x: &[f32], d: usize, bound: f32) -> (Vec<u8>, Vec<f32>) {
        let on_card = self.put(x);
        let after = [int(d), bound.into()];
        self.rows("quantise_rows_f32", (x.len() / d, d), &[(&on_card).into()], &after)
    }
}

#[test]
fn codes_are_those_of_pytorch() {
    let (head, rest) = GOLDEN.split_at(4 * 256);
    let (of_halves, rest) = rest.split_at(1 << 16);
    let (numbers, of_numbers) = rest.split_at(4 * 1000);
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    for (code, value) in floats(head).into_iter().enumerate() {
        let found = decode_e4m3(code as u8);
        assert!(found.to_bits() == value.to_bits() || (found.is_nan() && value.is_nan()), "{code:#x}");
    }
    // The largest of a row is above the bound, so scales are 1.
    let bench = Bench(fake_card::open());
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let on_card = bench.put(&bits);
    let after = [int(1 << 16), 448f32.into()];
    let (codes, scales) = bench.rows("quantise_rows", (1, 1 << 16), &[(&on_card).into()], &after);
    assert_eq!(scales, [1.0]);
    let mut finite = 0;
    for (bits, (found, expected)) in codes.iter().zip(of_halves).enumerate() {
        let x = bf16::from_bits(bits as u16).to_f32();
        if x.is_nan() {
            assert_eq!(found & 0x7f, 0x7f);
            continue;
        }
        finite += 1;
        assert_eq!((*found, encode(x)), (*expected, *expected), "{x}");
    }
    assert_eq!(finite, 65_536 - 254);
    let padded = [&floats(numbers)[..], &[448.0; 8]].concat();
    let (codes, _) = bench.quantise_f32(&padded, padded.len(), 448.0);
    for (x, (found, expected)) in padded.iter().zip(codes.iter().zip(of_numbers)) {
        assert_eq!((*found, encode(*x)), (*expected, *expected), "{x}");
    }
}

/// Scales nearly those expected; codes too, but for a few next to a middle.
#[track_caller]
fn nearly((codes, scales): &(Vec<u8>, Vec<f32>), (codes_, scales_): &(Vec<u8>, Vec<f32>)) {
    for (found, expected) in scales.iter().zip(scales_) {
        assert!((found - expected).abs() <= 2e-6 * expected, "scale {found}, expected {expected}");
    }
    assert_eq!((codes.len(), scales.len()), (codes_.len(), scales_.len()));
    let mut other = 0;
    for (at, (found, expected)) in codes.iter().zip(codes_).enumerate() {
        other += usize::from(found != expected);
        let [a, b] = [*found, *expected].map(|code| i32::from(code & 0x7f));
        assert!(
            (a - b).abs() <= 1 && (a == 0 || b == 0 || (found ^ expected) < 0x80),
            "{found} at {at}, not {expected}"
        );
    }
    assert!(other * 200 <= codes.len(), "{other} of {} codes are others", codes.len());
}

#[test]
fn weights_have_no_bound() {
    let bench = Bench(fake_card::open());
    let (n, d) = (4, 272);
    let mut x = rounded(&normal(n * d, "weights", 1.0));
    x[d..2 * d].iter_mut().for_each(|x| *x *= 4096.0);
    x[2 * d..3 * d].fill(0.0);
    let expected = quantise(&x, d, f32::INFINITY);
    assert!(expected.1[1] > BOUND / 448.0 && expected.1[2] == 0.0);
    assert_eq!(bench.quantise_f32(&x, d, f32::INFINITY), expected);
    let on_card = bench.put(&halves(&x));
    let after = [int(d), f32::INFINITY.into()];
    assert_eq!(bench.rows("quantise_rows", (n, d), &[(&on_card).into()], &after), expected);
}

/// The stream, normalised: a usual row, one beyond the bound, zeros.
#[test]
fn a_normalised_row_is_bounded() {
    let bench = Bench(fake_card::open());
    let (n, d, eps) = (3, 1296, 1e-5f32);
    let mut x = normal(n * d, "stream", 3.0);
    let mut w = normal(d, "norm", 1.0);
    // After the norm most of its square is in one value.
    x[d + 7] = 5000.0;
    w[7] = 100.0;
    x[2 * d..].fill(0.0);
    let normed: Vec<f32> = x
        .chunks_exact(d)
        .flat_map(|row| {
            let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / d as f64;
            let r = (1.0 / (square + f64::from(eps)).sqrt()) as f32;
            row.iter().zip(&w).map(move |(x, w)| x * r * w).collect::<Vec<f32>>()
        })
        .collect();
    let most = normed[d..2 * d].iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(most > 2.0 * BOUND, "{most}");
    let [on_x, on_w] = [bench.put(&x), bench.put(&w)];
    let arguments = [(&on_x).into(), (&on_w).into()];
    let found = bench.rows("norm_rows_e4m3", (n, d), &arguments, &[int(d), eps.into()]);
    nearly(&found, &quantise(&normed, d, BOUND));
    assert_eq!((found.1[1], found.0[d + 7]), (BOUND / 448.0, 0x7e), "bounded, and saturated");
    assert!(found.1[2] == 0.0 && found.0[2 * d..].iter().all(|code| code & 0x7f == 0), "zeros stay so");
}

/// Gate and up, scaled by the product or not yet; one row beyond the bound.
#[test]
fn a_gated_row_is_bounded() {
    let bench = Bench(fake_card::open());
    let (n, f) = (3, 2080);
    let mut gate_up = rounded(&normal(n * 2 * f, "gate up", 2.0));
    [gate_up[2 * f + 3], gate_up[3 * f + 3]] = [64.0, -64.0];
    let rows = normal(n, "rows", 1.0).iter().map(|x| x.abs() + 0.5).collect::<Vec<f32>>();
    let columns = normal(2 * f, "columns", 1.0).iter().map(|x| x.abs() + 0.5).collect::<Vec<f32>>();
    let gated = |scaled: bool| -> Vec<f32> {
        let value = |i: usize, j: usize| {
            let value = f64::from(gate_up[i * 2 * f + j]);
            if scaled { value * f64::from(rows[i]) * f64::from(columns[j]) } else { value }
        };
        let pair = |i: usize, j: usize| {
            let (gate, up) = (value(i, j), value(i, f + j));
            (gate / (1.0 + (-gate).exp()) * up) as f32
        };
        (0..n * f).map(|at| pair(at / f, at % f)).collect()
    };
    let [on_card, on_rows, on_columns] =
        [bench.put(&halves(&gate_up)), bench.put(&rows), bench.put(&columns)];
    let none = Arg::from(0u64);
    let arguments = [(&on_card).into(), none, none];
    let found = bench.rows("swiglu_e4m3", (n, f), &arguments, &[int(f)]);
    nearly(&found, &quantise(&gated(false), f, BOUND));
    assert_eq!((found.1[1], found.0[f + 3]), (BOUND / 448.0, 0xfe), "bounded, and saturated");
    let arguments = [(&on_card).into(), (&on_rows).into(), (&on_columns).into()];
    nearly(&bench.rows("swiglu_e4m3", (n, f), &arguments, &[int(f)]), &quantise(&gated(true), f, BOUND));
    // The scales of what comes out may lie where those of the rows were.
    let codes = bench.room(n * f);
    let arguments =
        [(&on_card).into(), (&on_rows).into(), (&on_columns).into(), (&codes).into(), (&on_rows).into()];
    bench.launch("swiglu_e4m3", (n, 1), &[&arguments[..], &[int(f)]].concat());
    nearly(&(bench.get(&codes), bench.get(&on_rows)), &quantise(&gated(true), f, BOUND));
}

/// By the library: scaled into bf16, scaled and added in f32, and left unscaled.
#[test]
fn products_of_rows_in_e4m3() {
    let bench = Bench(fake_card::open());
    let (n, m, k) = (32, 48, 208);
    let (x, x_scales) = quantise(&normal(n * k, "x", 20.0), k, BOUND);
    let (w, w_scales) = quantise(&normal(m * k, "w", 0.1), k, f32::INFINITY);
    let expected = product(&values(&x, &x_scales, k), &values(&w, &w_scales, k), k);
    let buffers = [bench.put(&x), bench.put(&w), bench.put(&x_scales), bench.put(&w_scales)];
    let [on_x, on_w, rows, columns] = buffers.each_ref().map(CardBuffer::address);
    let multiply = |out: &CardBuffer, dtype: DType, add: bool, scaled: bool| {
        let product = Product {
            sizes: (n, m, k),
            a: Mat::rows(on_x, Element::E4m3, k),
            b: Mat::rows(on_w, Element::E4m3, k).t(),
            out: Mat::rows(out.address(), dtype, m),
            add: add.then_some(out.address()),
            scales: scaled.then_some(Scales { rows, columns }),
        };
        bench.0.product(&product).unwrap();
    };
    let floats = |out: &CardBuffer| -> Vec<f32> {
        bench.get::<u16>(out).into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
    };
    let bound = [1.0 / 250.0, 1e-3];
    let how = bench.0.e4m3_products().unwrap().unwrap();
    assert!(fake_card::is_real() || how == E4m3Products::ScaledAndAdded);
    let out = bench.room(2 * n * m);
    if how.scales() {
        multiply(&out, DType::Bf16, false, true);
        assert_close("scaled", &floats(&out), &expected, bound[0]);
    }
    let before = normal(n * m, "before", 30.0);
    let added: Vec<f64> = expected.iter().zip(&before).map(|(x, b)| x + f64::from(*b)).collect();
    if how.adds() {
        let sums = bench.put(&before);
        multiply(&sums, DType::F32, true, true);
        assert_close("added", &bench.get(&sums), &added, bound[1]);
    }
    multiply(&out, DType::Bf16, false, false);
    let plain = product(&values(&x, &vec![1.0; n], k), &values(&w, &vec![1.0; m], k), k);
    assert_close("unscaled", &floats(&out), &plain, bound[0]);
    // And scaled and added by the kernel, or just added.
    let add = |scales: [Arg; 2]| -> Vec<f32> {
        let sums = bench.put(&before);
        let last = [(&sums).into(), (n * m).into(), int(m)];
        let blocks = ((n * m).div_ceil(THREADS), 1);
        bench.launch("add_rows", blocks, &[&[(&out).into()][..], &scales, &last].concat());
        bench.get(&sums)
    };
    let scaled = add([(&buffers[2]).into(), (&buffers[3]).into()]);
    assert_close("added by the kernel", &scaled, &added, bound[0]);
    let added: Vec<f64> = floats(&out).iter().zip(&before).map(|(x, b)| f64::from(x + b)).collect();
    assert_close("added as it is", &add([0u64.into(); 2]), &added, 1e-6);
}

/// By Herd's kernels: up to 8 rows, of activations in bf16; given or the stream's.
#[test]
fn products_of_few_rows_with_weights_in_e4m3() {
    let bench = Bench(fake_card::open());
    for (n, k, m) in [(1, 592, 48), (2, 2576, 16), (3, 16, 32), (8, 592, 32)] {
        let name = format!("{n} rows of {k}");
        let (x, before) = (rounded(&normal(n * k, "x", 1.0)), normal(n * m, "before", 1.0));
        let (codes, scales) = quantise(&normal(m * k, "w", 0.1), k, f32::INFINITY);
        let w = values(&codes, &scales, k);
        let [on_codes, on_x] = [bench.put(&codes), bench.put(&halves(&x))];
        let [on_scales, sums] = [bench.put(&scales), bench.put(&before)];
        let squares = bench.room(4 * 8 * (m / 16));
        let buffers = [&on_codes, &on_scales, &on_x, &sums, &squares].map(Arg::from);
        let grid = Grid { blocks: (m / 16, 1), threads: THREADS, shared: 0 };
        bench.launch("few_add_e4m3", grid, &[&buffers[..], &[n, k, m].map(int)].concat());
        let expected: Vec<f64> =
            product(&exact(&x), &w, k).iter().zip(&before).map(|(x, b)| x + f64::from(*b)).collect();
        let found: Vec<f32> = bench.get(&sums);
        assert_close(&name, &found, &expected, 1e-5);
        let of_sums: Vec<f32> = bench.get(&squares);
        for (at, sixteen) in found.chunks_exact(16).enumerate() {
            let square = sixteen.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
            let (row, part) = (at / (m / 16), at % (m / 16));
            assert_close(&format!("{name}: squares"), &[of_sums[part * 8 + row]], &[square], 1e-5);
        }

        // Gates and ups, of rows that are given.
        let f = m / 2;
        let gated = |x: &[f64], r: &[f64]| -> Vec<f64> {
            let sums = product(x, &w, k);
            let pair = |i: usize, j: usize| {
                let [gate, up] = [sums[i * m + j] * r[i], sums[i * m + f + j] * r[i]];
                gate / (1.0 + (-gate).exp()) * up
            };
            (0..n * f).map(|at| pair(at / f, at % f)).collect()
        };
        let floats = |out: &CardBuffer| -> Vec<f32> {
            bench.get::<u16>(out).into_iter().map(|bits| bf16::from_bits(bits).to_f32()).collect()
        };
        let (none, eps) = (Arg::from(0u64), 1e-5f32);
        let out = bench.room(2 * n * f);
        let grid = Grid { blocks: (f / 8, 1), threads: THREADS, shared: 2 * n * k };
        let input = [(&on_codes).into(), (&on_scales).into(), (&on_x).into(), none, none, none, eps.into()];
        let last = [(&out).into(), int(n), int(k), int(f)];
        bench.launch("few_gated_e4m3", grid, &[&input[..], &last].concat());
        assert_close(
            &format!("{name}, gated"),
            &floats(&out),
            &gated(&exact(&x), &vec![1.0; n]),
            1.0 / 250.0,
        );
        if n > 2 {
            continue;
        }
        // And of the stream's.
        let (stream, norm) = (normal(n * k, "stream", 2.0), normal(k, "norm", 1.0));
        let mut squares = vec![0f32; k / 16 * 8];
        for (at, sixteen) in stream.chunks_exact(16).enumerate() {
            squares[at % (k / 16) * 8 + at / (k / 16)] = sixteen.iter().map(|x| x * x).sum();
        }
        let times: Vec<f32> = stream.iter().enumerate().map(|(i, x)| x * norm[i % k]).collect();
        let r = stream.chunks_exact(k).map(|row| {
            let square = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / k as f64;
            1.0 / (square + f64::from(eps)).sqrt()
        });
        let expected = gated(&exact(&rounded(&times)), &r.collect::<Vec<f64>>());
        let [on_stream, on_norm, on_squares] =
            [&stream, &norm, &squares].map(|values| bench.put(&values[..]));
        let of_stream = [&on_stream, &on_norm, &on_squares].map(Arg::from);
        let input =
            [&[(&on_codes).into(), (&on_scales).into(), none][..], &of_stream, &[eps.into()]].concat();
        let out = bench.room(2 * n * f);
        let last = [(&out).into(), int(n), int(k), int(f)];
        bench.launch("few_gated_e4m3", grid, &[&input[..], &last].concat());
        assert_close(&format!("{name}, of the stream"), &floats(&out), &expected, 1.0 / 250.0);
    }
}

/// On cards of other generations and with other libraries. The card made of the processor is what it is told to be, for a thread.
#[test]
fn what_cards_and_libraries_multiply() {
    if fake_card::is_real() {
        return;
    }
    let found = |capability: i32, version: usize, bf16_only: bool| {
        fake_card::be(capability, version, bf16_only);
        let found = fake_card::open().e4m3_products().unwrap();
        fake_card::be(90, 130_400, false);
        found
    };
    assert_eq!(found(90, 130_400, false), Ok(E4m3Products::ScaledAndAdded));
    assert_eq!(found(90, 120_900, true), Ok(E4m3Products::Scaled));
    assert_eq!(found(90, 120_804, false), Ok(E4m3Products::Unscaled), "factors of rows came later");
    assert_eq!(found(89, 130_400, false), Ok(E4m3Products::Unscaled));
    assert_eq!(found(100, 130_400, false), Ok(E4m3Products::Unscaled), "only on Hopper");
    let error = found(80, 130_400, false).unwrap_err();
    assert!(error.contains("8.9 or later") && error.contains("is sm_80"), "{error}");
    let error = found(90, 110_000, false).unwrap_err();
    let parts = ["cuBLASLt", "sm_90", "pip install -U nvidia-cublas"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

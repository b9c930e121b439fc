//! How fast a feed-forward part is in FP8, beside bf16.

use super::e4m3::{Bench, exact, halves, int, normal};
use super::fake_card;
use herd_tensor::cuda::{Arg, CardBuffer, DType, E4m3Products, Element, Mat, Product, Scales, THREADS};

/// Milliseconds of a feed-forward part on 4,096 rows, its norm and what rounds activations included, in bf16 and in e4m3, as JSON
/// lines that `bench/gpu/check` reads: `--ignored feed_forward_speed --nocapture`. What is asked of the card is what generation
/// asks (`infer::card`).
#[test]
#[ignore = "a measurement, which takes a real card"]
fn feed_forward_speed() {
    let shapes = match fake_card::is_real() {
        true => vec![("1B", 4096, 2048, 8192), ("3B", 4096, 3072, 8192), ("8B", 4096, 4096, 14336)],
        false => vec![("tiny", 32, 64, 96)],
    };
    let (runs, rounds) = if fake_card::is_real() { (20, 7) } else { (1, 1) };
    for (shape, n, d, f) in shapes {
        let bench = Bench(fake_card::open());
        let how = bench.0.e4m3_products().unwrap().unwrap();
        let part = FeedForward::new(&bench, how, (n, d, f));
        let mut times = [Vec::new(), Vec::new()];
        let mut sums = [Vec::new(), Vec::new()];
        for round in 0..=rounds {
            for (which, times) in times.iter_mut().enumerate() {
                part.x.overwrite(&part.stream).unwrap();
                part.run(&bench, which == 1);
                bench.0.synchronize().unwrap();
                if round == 0 {
                    // Kernels are loaded, algorithms measured, and both compute the same.
                    sums[which] = bench.get::<f32>(&part.x);
                    continue;
                }
                let begin = std::time::Instant::now();
                (0..runs).for_each(|_| part.run(&bench, which == 1));
                bench.0.synchronize().unwrap();
                times.push(begin.elapsed().as_secs_f64() / f64::from(runs) * 1e3);
            }
        }
        let change =
            |sums: &[f32]| exact(sums).iter().zip(&part.stream).map(|(y, x)| y - f64::from(*x)).collect();
        let [bf16, fp8]: [Vec<f64>; 2] = sums.each_ref().map(|sums| change(sums));
        let size = bf16.iter().map(|x| x * x).sum::<f64>();
        let off = (bf16.iter().zip(&fp8).map(|(a, b)| (a - b).powi(2)).sum::<f64>() / size).sqrt();
        assert!(off > 1e-3 && off < 0.1, "{off} apart");
        let [bf16, fp8] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{{\"feed_forward\": \"{shape}\", \"rows\": {n}, \"bf16_ms\": {bf16:.4}, \"fp8_ms\": {fp8:.4}, \
             \"ratio\": {:.3}, \"difference\": {off:.4}, \"scaled\": \"{how:?}\"}}",
            bf16 / fp8
        );
    }
}

/// A feed-forward part, and buffers for what is between its products.
struct FeedForward {
    how: E4m3Products,
    sizes: (usize, usize, usize),
    stream: Vec<f32>,
    x: CardBuffer,
    norm: CardBuffer,
    /// gate_up and down in bf16; their codes and scales.
    weights: [CardBuffer; 2],
    codes: [CardBuffer; 2],
    scales: [CardBuffer; 2],
    normed: CardBuffer,
    gate_up: CardBuffer,
    gated: CardBuffer,
    of_rows: CardBuffer,
}

impl FeedForward {
    fn new(bench: &Bench, how: E4m3Products, (n, d, f): (usize, usize, usize)) -> Self {
        let stream = normal(n * d, "stream", 1.0);
        let shapes = [(2 * f, d), (d, f)];
        let weights = shapes.map(|(m, k)| bench.put(&halves(&normal(m * k, "w", 1.0 / (k as f32).sqrt()))));
        let codes = shapes.map(|(m, k)| bench.room(m * k));
        let scales = shapes.map(|(m, _)| bench.room(4 * m));
        for (i, (m, k)) in shapes.into_iter().enumerate() {
            let arguments = [&weights[i], &codes[i], &scales[i]].map(Arg::from);
            bench.launch(
                "quantise_rows",
                (m, 1),
                &[&arguments[..], &[int(k), f32::INFINITY.into()]].concat(),
            );
        }
        let [normed, gate_up, gated] = [d, 2 * f, f].map(|width| bench.room(2 * n * width));
        let (x, norm, of_rows) = (bench.put(&stream), bench.put(&vec![1f32; d]), bench.room(4 * n));
        let sizes = (n, d, f);
        Self { how, sizes, stream, x, norm, weights, codes, scales, normed, gate_up, gated, of_rows }
    }

    /// `x += down`, of the stream as it is.
    fn run(&self, bench: &Bench, in_e4m3: bool) {
        let (n, d, f) = self.sizes;
        let multiply = |from: &CardBuffer, which: usize, (m, k), out: &CardBuffer, dtype: DType| {
            let (element, w) = match in_e4m3 {
                true => (Element::E4m3, &self.codes[which]),
                false => (Element::Bf16, &self.weights[which]),
            };
            let scales = Scales { rows: self.of_rows.address(), columns: self.scales[which].address() };
            let product = Product {
                sizes: (n, m, k),
                a: Mat::rows(from.address(), element, k),
                b: Mat::rows(w.address(), element, k).t(),
                out: Mat::rows(out.address(), dtype, m),
                add: (dtype == DType::F32).then_some(out.address()),
                scales: (in_e4m3 && self.how.scales()).then_some(scales),
            };
            bench.0.product(&product).unwrap();
        };
        let eps = Arg::from(1e-5f32);
        let of_rows = Arg::from(&self.of_rows);
        if !in_e4m3 {
            let arguments = [(&self.x).into(), 0u64.into(), (&self.norm).into(), (&self.normed).into()];
            bench.launch("norm_rows", (n, 1), &[&arguments[..], &[int(d), eps]].concat());
            multiply(&self.normed, 0, (2 * f, d), &self.gate_up, DType::Bf16);
            let arguments = [(&self.gate_up).into(), (&self.gated).into(), (n * f).into(), int(f)];
            bench.launch("swiglu", ((n * f).div_ceil(THREADS), 1), &arguments);
            multiply(&self.gated, 1, (d, f), &self.x, DType::F32);
            return;
        }
        let left = |which: usize| match self.how.scales() {
            true => [0u64.into(); 2],
            false => [of_rows, (&self.scales[which]).into()],
        };
        let arguments = [(&self.x).into(), (&self.norm).into(), (&self.normed).into(), of_rows, int(d), eps];
        bench.launch("norm_rows_e4m3", (n, 1), &arguments);
        multiply(&self.normed, 0, (2 * f, d), &self.gate_up, DType::Bf16);
        let last = [(&self.gated).into(), of_rows, int(f)];
        bench.launch("swiglu_e4m3", (n, 1), &[&[(&self.gate_up).into()][..], &left(0), &last].concat());
        if self.how.adds() {
            return multiply(&self.gated, 1, (d, f), &self.x, DType::F32);
        }
        multiply(&self.gated, 1, (d, f), &self.normed, DType::Bf16);
        let last = [(&self.x).into(), (n * d).into(), int(d)];
        let blocks = ((n * d).div_ceil(THREADS), 1);
        bench.launch("add_rows", blocks, &[&[(&self.normed).into()][..], &left(1), &last].concat());
    }
}

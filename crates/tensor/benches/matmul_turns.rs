//! Matrix products for `bench/matmul/compare.py`: reads lines `PROGRAM LAYOUT M N K TIMES` where the program is `herd`,
//! `gemm` or `matrixmultiply`, makes the product once, then TIMES times, and answers with the mean seconds of the latter
//! and the sum of the sizes of every 997th value of the first. RAYON_NUM_THREADS and MATMUL_NUM_THREADS say on how many
//! threads.

mod products;

use herd_tensor::Tensor;
use std::io::BufRead;
use std::time::Instant;

fn values(count: usize, period: usize) -> Tensor {
    let half = (period / 2) as f32;
    Tensor::from_vec((0..count).map(|i| ((i % period) as f32 - half) / half).collect(), &[count])
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return; // `cargo test --benches`: there is nobody to ask.
    }
    let (mut a, mut b, mut out) = (values(0, 17), values(0, 13), Tensor::zeros(&[0]));
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input ends well");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [program, layout, sizes @ ..] = &words[..] else { panic!("not a request: {line}") };
        let sizes: Vec<usize> = sizes.iter().map(|size| size.parse().expect("a size")).collect();
        let [m, n, k, times] = sizes[..] else { panic!("not four numbers: {line}") };
        if a.len() < m * k {
            a = values(m * k, 17);
        }
        if b.len() < n * k {
            b = values(n * k, 13);
        }
        if out.len() < m * n {
            out = Tensor::zeros(&[m * n]);
        }
        let (a, b, out) = (&a.as_slice()[..m * k], &b.as_slice()[..n * k], &mut out.make_mut()[..m * n]);
        out.fill(0.0);
        let product = match *program {
            "herd" => products::herd,
            "gemm" => products::gemm,
            _ => products::matrixmultiply,
        };
        product(layout, (m, n, k), a, b, out);
        let sum: f64 = out.iter().step_by(997).map(|&x| f64::from(x.abs())).sum();
        let started = Instant::now();
        for _ in 0..times {
            product(layout, (m, n, k), a, b, out);
        }
        println!("{} {sum}", started.elapsed().as_secs_f64() / times as f64);
    }
}

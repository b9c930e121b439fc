//! Matrix products of random shapes, all layouts and instruction sets, against f64; and what does not change their bits.

use herd_tensor::CounterRng;
use herd_tensor::isa::{self, force};
use herd_tensor::kernels::{matmul_nn, matmul_nt, matmul_nt_add, matmul_tn_add};
use std::sync::Mutex;

/// The instruction set is chosen for the whole process, so the tests take turns.
static TURN: Mutex<()> = Mutex::new(());

fn draw(rng: &CounterRng, count: usize) -> Vec<f32> {
    (0..count).map(|i| rng.normal(i as u64) as f32).collect()
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

/// `a[m, k] b[k, n]` in f64.
fn exact(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            let x = f64::from(a[i * k + p]);
            for j in 0..n {
                out[i * n + j] += x * f64::from(b[p * n + j]);
            }
        }
    }
    out
}

fn assert_close(what: &str, fast: &[f32], exact: &[f64], offset: f64, k: usize) {
    for (i, (fast, exact)) in fast.iter().zip(exact).enumerate() {
        let error = (f64::from(*fast) - exact - offset).abs();
        assert!(error < 4e-6 * (k as f64).sqrt() + 1e-6, "{what}: element {i} is {fast}, should be {exact}");
    }
}

#[test]
fn random_shapes_on_every_instruction_set() {
    let _turn = TURN.lock().unwrap();
    let primes = [1, 2, 3, 5, 7, 11, 13, 14, 15, 16, 17, 31, 32, 33, 61, 127, 257, 300, 521];
    let rng = CounterRng::new(1, "shapes");
    for isa in isa::ALL {
        let isa = force(isa);
        for case in 0..150u64 {
            let pick = |i: u64| primes[(rng.bits(3 * case + i) % primes.len() as u64) as usize];
            let (m, n, k) = (pick(0), pick(1), pick(2));
            let (a, b) = (draw(&CounterRng::new(case, "a"), m * k), draw(&CounterRng::new(case, "b"), k * n));
            let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
            let exact = exact(&a, &b, m, n, k);
            let what = format!("{isa:?} {m}x{n}x{k}");
            let mut out = vec![f32::NAN; m * n];
            matmul_nt(&a, &bt, &mut out, m, n, k);
            assert_close(&format!("nt {what}"), &out, &exact, 0.0, k);
            let nt = out.clone();
            out.fill(f32::NAN);
            matmul_nn(&a, &b, &mut out, m, n, k);
            assert_eq!(out, nt, "nn {what}");
            out.fill(0.0);
            matmul_tn_add(&at, &b, &mut out, m, n, k);
            assert_eq!(out, nt, "tn {what}");
            out.fill(3.0);
            matmul_nt_add(&a, &bt, &mut out, m, n, k);
            assert_close(&format!("nt_add {what}"), &out, &exact, 3.0, k);
        }
        // Beyond the strips of every dimension.
        for (m, n, k) in [(70, 40, 5000), (1500, 70, 2100), (70, 1100, 2100)] {
            let (a, b) = (draw(&rng, m * k), draw(&rng, k * n));
            let mut out = vec![f32::NAN; m * n];
            matmul_nn(&a, &b, &mut out, m, n, k);
            assert_close(&format!("{isa:?} {m}x{n}x{k}"), &out, &exact(&a, &b, m, n, k), 0.0, k);
        }
    }
}

#[test]
fn the_bits_of_a_row_do_not_depend_on_its_batch_or_on_threads() {
    let _turn = TURN.lock().unwrap();
    let (m, n, k) = (300, 200, 700);
    let rng = CounterRng::new(2, "x");
    let (x, w) = (draw(&rng, m * k), draw(&rng, n * k));
    let run = |threads: usize, rows: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut out = vec![0.0; rows * n];
        pool.install(|| matmul_nt(&x[..rows * k], &w, &mut out, rows, n, k));
        out
    };
    let all = run(1, m);
    for (threads, rows) in [(2, m), (3, m), (1, 1), (2, 13), (3, 57), (2, 100)] {
        assert!(run(threads, rows) == all[..rows * n], "{threads} threads, {rows} rows");
    }
}

#[test]
#[should_panic(expected = "matmul_nt: operands hold 6 and 5 values, the sizes ask for 6 and 6")]
fn wrong_sizes_are_named() {
    matmul_nt(&[0.0; 6], &[0.0; 5], &mut [0.0; 4], 2, 2, 3);
}

//! Matrix products of the training workloads, beside the `gemm` crate, interleaved: `cargo bench -p herd-tensor --bench
//! matmul [-- THREADS [ROUNDS [cpu] [alone] [LAYOUT-M-N-K]]]`. Prints GFLOP/s from the best time of each,
//! which other load on the machine disturbs least; with `cpu`, per second of processor time instead of wall time; with
//! `alone`, without the peer.

mod products;

use herd_tensor::Tensor;

/// Seconds of wall time, or of the process's processor time.
fn now(cpu: bool) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let clock = if cpu { libc::CLOCK_PROCESS_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    // SAFETY: `time` is valid for writing.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

fn best(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

fn main() {
    let cpu = std::env::args().any(|a| a == "cpu");
    let alone = std::env::args().any(|a| a == "alone");
    let only =
        std::env::args().skip(1).find(|a| ["nt-", "nn-", "tn-"].iter().any(|layout| a.starts_with(layout)));
    let mut numbers = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let (threads, rounds) = (numbers.next().unwrap_or(2), numbers.next().unwrap_or(7));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().expect("first use of the pool");
    println!("{threads} threads, {rounds} rounds, {:?}", herd_tensor::isa::active());
    println!("{:24} {:>10} {:>10}  ratio", "layout m n k", "herd", "gemm");
    let shapes = [
        ("nt", 2048, 768, 512),
        ("nt", 2048, 3072, 512),
        ("nt", 2048, 512, 1536),
        ("nn", 2048, 512, 3072),
        ("nn", 2048, 1536, 512),
        ("tn", 3072, 512, 2048),
        ("tn", 512, 1536, 2048),
        ("nt", 252, 32000, 512),
        ("nn", 252, 512, 32000),
        ("tn", 32000, 512, 252),
        ("nt", 2048, 32000, 512),
        ("nt", 2048, 1280, 768),
        ("nt", 2048, 4096, 768),
        ("nt", 2048, 768, 2048),
        ("nn", 2048, 768, 4096),
        ("nn", 2048, 2048, 768),
        ("tn", 4096, 768, 2048),
        ("tn", 768, 2048, 2048),
        ("nt", 84, 128256, 768),
        ("nn", 84, 768, 128256),
        ("tn", 128256, 768, 84),
        ("nt", 168, 128256, 768),
        ("nn", 168, 768, 128256),
        ("tn", 128256, 768, 168),
        ("nt", 252, 128256, 768),
        ("nn", 252, 768, 128256),
        ("tn", 128256, 768, 252),
        ("nt", 1, 4096, 1024),
        ("nt", 16, 4096, 1024),
    ];
    for (layout, m, n, k) in shapes {
        if only.as_ref().is_some_and(|only| *only != format!("{layout}-{m}-{n}-{k}")) {
            continue;
        }
        let a = Tensor::from_vec((0..m * k).map(|i| (i % 17) as f32 - 8.0).collect(), &[m * k]);
        let b = Tensor::from_vec((0..n * k).map(|i| (i % 13) as f32 - 6.0).collect(), &[n * k]);
        let (a, b) = (a.as_slice(), b.as_slice());
        let mut out = Tensor::zeros(&[m * n]);
        let out = out.make_mut();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let start = now(cpu);
            products::herd(layout, (m, n, k), a, b, out);
            ours.push(now(cpu) - start);
            if alone {
                continue;
            }
            let start = now(cpu);
            products::gemm(layout, (m, n, k), a, b, out);
            theirs.push(now(cpu) - start);
        }
        let rate = |seconds: f64| 2.0 * (m * n * k) as f64 / seconds / 1e9;
        let (ours, theirs) = (rate(best(&ours)), rate(best(&theirs)));
        println!("{:24} {ours:10.1} {theirs:10.1}  {:.2}", format!("{layout} {m} {n} {k}"), ours / theirs);
    }
}

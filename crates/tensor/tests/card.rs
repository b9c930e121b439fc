//! Every operator on a card, with the card made of the processor: the same cases as on the host. Needs g++.

#![cfg(target_os = "linux")]

#[path = "check/attention.rs"]
mod attention;
#[path = "check/cases.rs"]
mod cases;
mod check;
#[path = "check/e4m3.rs"]
mod e4m3;
mod fake_card;
#[path = "check/feed_forward.rs"]
mod feed_forward;

use herd_tensor::cuda::{Card, CardBuffer, CardError, CudnnUse, DType};
use herd_tensor::{CounterRng, Grads, Init, ParamSpec, Params, Segments, Tape, Tensor};

/// Runs a case on a card of its own, whose memory begins as NaNs.
fn on_card(case: fn()) {
    check::CARD.set(Some(fake_card::open()));
    case();
    let card = check::CARD.take().unwrap();
    card.synchronize().unwrap();
    assert!(card.usage().peak_live > 0, "the case was on the card");
    // What products work with stays.
    assert!([0, 32 << 20].contains(&card.usage().live), "{card:?} gave everything back");
}

macro_rules! cases {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            on_card(cases::$name);
        }
    )*};
}

cases! {
    embedding_and_selection
    linear
    rms_norm
    rope
    swiglu
    attention
    attention_across_blocks
    losses
    segment
}

#[test]
fn attention_on_tensor_cores() {
    attention::every_layout(CudnnUse::Off, DType::Bf16, (4, 2, 64), 1.5e-2);
    attention::every_layout(CudnnUse::Off, DType::Bf16, (3, 1, 128), 1.5e-2);
}

/// On a card without a cuDNN that is trusted this is the same as above.
#[test]
fn attention_by_cudnn() {
    let report = fake_card::open().cudnn_report();
    println!("{report:#?}");
    if !fake_card::is_real() {
        assert!(report.library.is_ok() && report.classes.len() == 10, "{report:#?}");
        assert!(report.classes.iter().all(|(_, verdict)| verdict.is_ok()), "{report:#?}");
    }
    attention::every_layout(CudnnUse::FixedOrder, DType::Bf16, (4, 2, 64), 1.5e-2);
    attention::every_layout(CudnnUse::FixedOrder, DType::Bf16, (3, 1, 128), 1.5e-2);
    attention::every_layout(CudnnUse::AnyOrder, DType::Bf16, (2, 2, 64), 1.5e-2);
}

/// Milliseconds and TFLOP/s (a causal pair counted once) of attention by Herd's kernels and by cuDNN, as JSON lines that
/// `bench/gpu/check` reads: `--ignored attention_speed --nocapture`.
#[test]
#[ignore = "a measurement, which takes a real card"]
fn attention_speed() {
    let packed: Vec<usize> = (0..8).map(|i| [300, 1700, 1024, 1072][i % 4]).collect();
    let lengths: [(&str, Vec<usize>); 3] =
        [("8192", vec![8192]), ("4 x 2048", vec![2048; 4]), ("packed", packed)];
    let uses = [("herd", CudnnUse::Off), ("cudnn", CudnnUse::FixedOrder), ("any order", CudnnUse::AnyOrder)];
    for head_dim in [64, 128] {
        for (layout, lengths) in &lengths {
            for (by, allowed) in uses {
                let card = fake_card::open();
                card.use_cudnn(allowed);
                let [forward, backward] = attention::seconds(&card, (32, 8, head_dim), lengths);
                let segments = Segments::documents(lengths);
                let flops = 4.0 * (segments.pairs() * 32 * head_dim) as f64;
                let [tf, tb] = [flops / forward / 1e12, 2.5 * flops / backward / 1e12];
                println!(
                    "{{\"attention\": \"{layout}\", \"head_dim\": {head_dim}, \"by\": \"{by}\", \
                     \"forward_ms\": {:.4}, \"backward_ms\": {:.4}, \"forward_tflops\": {tf:.1}, \
                     \"backward_tflops\": {tb:.1}}}",
                    1e3 * forward,
                    1e3 * backward
                );
            }
        }
    }
}

#[test]
fn attention_in_plain_arithmetic() {
    attention::every_layout(CudnnUse::FixedOrder, DType::F32, (3, 1, 128), 1e-5);
    attention::every_layout(CudnnUse::FixedOrder, DType::F32, (2, 2, 64), 1e-5);
    attention::every_layout(CudnnUse::FixedOrder, DType::Bf16, (4, 2, 40), 1.5e-2);
}

/// More logits than exist at once, some rows without weight, the hidden state used twice: loss and gradients on the card
/// in f32 and bf16 beside those of the host.
#[test]
fn a_loss_in_several_chunks() {
    let (vocabulary, d, n) = (400_000, 4, 300);
    let normal = Init::Normal { std: 1.0 };
    let mut host = Params::new(vec![
        ParamSpec::new("x", &[n, d], normal),
        ParamSpec::new("w", &[vocabulary, d], normal),
    ]);
    host.initialize(5);
    let (x, w) = (host.id("x").unwrap(), host.id("w").unwrap());
    let rng = CounterRng::new(3, "targets");
    let targets: Vec<u32> = (0..n as u64).map(|i| (rng.bits(i) % vocabulary as u64) as u32).collect();
    let weights: Vec<f32> = (0..n).map(|i| (i % 3) as f32 / n as f32).collect();
    let ids: Vec<u32> = (0..n as u32).collect();
    let run = |params: &Params| {
        let mut grads = Grads::new(params);
        let mut tape = Tape::new(params);
        let h = tape.embedding(x, &ids);
        let loss = tape.cross_entropy_backward(h, w, &targets, &weights, &mut grads);
        (loss, grads.of(x).to_vec(), grads.of(w).to_vec())
    };
    let (loss, dx, dw) = run(&host);
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::Bf16, 2e-2)] {
        let mut params = host.clone();
        params.to_card(&fake_card::open(), dtype).unwrap();
        let (loss_, dx_, dw_) = run(&params);
        assert!((loss / loss_ - 1.0).abs() < tolerance, "{dtype:?}: {loss} {loss_}");
        for (what, host, card) in [("dx", &dx, &dx_), ("dw", &dw, &dw_)] {
            let exact: Vec<f64> = host.iter().map(|g| f64::from(*g)).collect();
            check::assert_close(&format!("{what} in {dtype:?}"), card, &exact, f64::from(tolerance));
        }
    }
}

#[test]
fn parameters_are_where_they_were_written_last() {
    let card = fake_card::open();
    let mut params = Params::new(vec![ParamSpec::new("w", &[3, 2], Init::Ones)]);
    params.initialize(1);
    let w = params.id("w").unwrap();
    params.to_card(&card, DType::Bf16).unwrap();
    let row = |params: &Params| {
        let mut tape = Tape::no_grad(params);
        tape.embedding(w, &[1]).value().to_host().as_slice().to_vec()
    };
    assert_eq!(row(&params), [1.0, 1.0]);
    params.value_mut(w)[2..4].copy_from_slice(&[0.5, 1.0 + 1.0 / 512.0]);
    // The copy that activations are computed with is rounded, the values are not.
    assert_eq!(row(&params), [0.5, 1.0]);
    assert_eq!(params.value(w)[3], 1.0 + 1.0 / 512.0);
    assert_eq!(row(&params.clone()), [0.5, 1.0]);
}

#[test]
fn what_a_card_cannot_do_is_said_with_a_remedy() {
    let card = fake_card::open();
    let Err(error) = CardBuffer::stale(&card, 2 << 30) else { panic!("the card has 1 GiB") };
    let text = error.to_string();
    let parts = ["cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY", "(error 2)", "a smaller micro-batch"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    let folders = [fake_card::folder().to_path_buf()];
    let error = Card::open_in(1, &folders, None).unwrap_err();
    assert!(matches!(error, CardError::NoCard { index: 1, count: 1 }), "{error}");
    assert!(error.to_string().contains("herd doctor"), "{error}");
}

#[test]
#[should_panic(expected = "are on a card; to_host() copies them")]
fn values_on_a_card_are_not_read_by_mistake() {
    let mut params = Params::new(vec![ParamSpec::new("w", &[3, 2], Init::Ones)]);
    params.to_card(&fake_card::open(), DType::F32).unwrap();
    let tape = Tape::no_grad(&params);
    tape.constant(Tensor::scalar(1.0)).value().as_slice();
}

/// The cache holds a module for each type of activations; a damaged one is made again.
#[test]
fn compiled_kernels_are_kept() {
    let (cache, folders) = (tempfile::tempdir().unwrap(), [fake_card::folder().to_path_buf()]);
    let step = || {
        let card = Card::open_in(0, &folders, Some(cache.path())).unwrap();
        let mut params = Params::new(vec![ParamSpec::new("w", &[3, 2], Init::Ones)]);
        params.initialize(1);
        params.to_card(&card, DType::Bf16).unwrap();
        let mut tape = Tape::no_grad(&params);
        assert_eq!(tape.embedding(params.id("w").unwrap(), &[2]).value().to_host().as_slice(), [1.0, 1.0]);
        std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    let [file] = &step()[..] else { panic!("one module was needed") };
    let code = std::fs::read(file).unwrap();
    std::fs::write(file, "no code").unwrap();
    assert_eq!(&step()[..], std::slice::from_ref(file));
    // What was damaged is gone; the next start compiles and keeps it.
    step();
    assert_eq!(std::fs::read(file).unwrap(), code);
}

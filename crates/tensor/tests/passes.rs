//! Passes and the graphs they become, with the card made of the processor. Needs g++.

#![cfg(target_os = "linux")]

mod fake_card;

use herd_tensor::cuda::{Card, CardAdamW, CardBuffer, CardReport, CardRule, DType};
use herd_tensor::{Grads, Init, ParamSpec, Params, Tape, Tensor};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn params(card: &Card) -> Params {
    let normal = Init::Normal { std: 0.5 };
    let specs = vec![
        ParamSpec::new("embed", &[20, 8], normal),
        ParamSpec::new("w", &[8, 8], normal),
        ParamSpec::new("norm", &[8], Init::Ones),
    ];
    let mut params = Params::new(specs);
    params.initialize(3);
    params.to_card(card, DType::F32).unwrap();
    params
}

/// Nine commands, with tokens as an input.
fn forward(params: &Params, ids: &[u32]) -> Tensor {
    let mut tape = Tape::no_grad(params);
    let [embed, w, norm] = ["embed", "w", "norm"].map(|name| params.id(name).unwrap());
    let mut x = tape.embedding(embed, ids);
    for _ in 0..4 {
        let y = tape.rms_norm(&x, norm, 1e-5);
        x = tape.linear_add(&y, w, &x);
    }
    x.value().clone()
}

fn ids(step: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 7 + step * step) % 20).collect()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_host().as_slice().to_vec()
}

fn in_a_pass(card: &Card, params: &Params, ids: &[u32]) -> Vec<f32> {
    let pass = card.pass();
    let out = forward(params, ids);
    pass.run().unwrap();
    values(&out)
}

#[test]
fn what_repeats_becomes_a_graph() {
    let card = fake_card::open();
    let params = params(&card);
    for step in 0..6 {
        let ids = ids(step, 5);
        let plain = values(&forward(&params, &ids));
        assert_eq!(in_a_pass(&card, &params, &ids), plain, "step {step}");
    }
    let usage = card.passes();
    // The first has to make room for inputs.
    assert_eq!((usage.captured, usage.launched), (1, 4), "{usage:?}");
    card.set_graphs(false);
    in_a_pass(&card, &params, &ids(9, 5));
    assert_eq!(card.passes().launched, 4);
}

/// A buffer that takes the place of another, other sizes, more inputs than there was room for: no graph fits, and nothing is
/// wrong.
#[test]
fn what_does_not_repeat_is_asked_for_as_it_is() {
    let card = fake_card::open();
    let params = params(&card);
    let check = |step: u32, count: u32| {
        let ids = ids(step, count);
        let plain = values(&forward(&params, &ids));
        assert_eq!(in_a_pass(&card, &params, &ids), plain, "step {step}");
        card.passes().launched
    };
    let launched: Vec<u64> = (0..4).map(|step| check(step, 5)).collect();
    assert_eq!(launched, [0, 0, 1, 2]);
    let in_the_way = CardBuffer::zeroed(&card, 8).unwrap();
    assert_eq!(check(4, 5), 2, "addresses are others");
    drop(in_the_way);
    assert_eq!(check(5, 5), 3, "and as before");
    assert_eq!(check(6, 6), 3);
    for (step, count) in (7..).zip(7..40) {
        check(step, count);
    }
    // More lists than are remembered.
    assert_eq!(check(50, 5), 3);
    check(51, 5);
    assert!(check(52, 5) > 3);
    assert_eq!(card.passes().refused, None);
}

#[test]
fn uploads_and_downloads_inside_a_pass_keep_their_order() {
    let card = fake_card::open();
    for _ in 0..3 {
        let x = CardBuffer::from_host(&card, &[1.0f32, 2.0]).unwrap();
        let pass = card.pass();
        let before = x.copied().unwrap();
        x.overwrite(&[3.0f32, 4.0]).unwrap();
        let between = x.copied().unwrap();
        let mut read = [0.0f32; 2];
        between.read(&mut read).unwrap();
        assert_eq!(read, [3.0, 4.0]);
        x.clear().unwrap();
        let new = CardBuffer::from_host(&card, &[5.0f32, 6.0]).unwrap();
        pass.run().unwrap();
        let all = [before, between, x, new].map(|buffer| {
            let mut read = [0.0f32; 2];
            buffer.read(&mut read).unwrap();
            read
        });
        assert_eq!(all, [[1.0, 2.0], [3.0, 4.0], [0.0, 0.0], [5.0, 6.0]]);
    }
}

#[test]
fn a_pass_that_ends_with_a_panic_is_forgotten() {
    let card = fake_card::open();
    let params = params(&card);
    let want = values(&forward(&params, &ids(1, 5)));
    let broken = || {
        let _pass = card.pass();
        forward(&params, &ids(0, 5));
        panic!("an operator failed");
    };
    assert!(catch_unwind(AssertUnwindSafe(broken)).is_err());
    for _ in 0..4 {
        assert_eq!(in_a_pass(&card, &params, &ids(1, 5)), want);
    }
}

/// Passes are asked for ahead of the card, with streams that run as late as they may: tokens are neither read before they are
/// there nor overwritten before they were read.
#[test]
fn inputs_arrive_in_time_and_stay_as_long_as_needed() {
    for late in 0..4 {
        let card = fake_card::open_late(late);
        let params = params(&card);
        let want: Vec<_> = (0..8).map(|step| values(&forward(&params, &ids(step, 5)))).collect();
        let kept: Vec<Tensor> = (0..8).map(|_| forward(&params, &ids(9, 5))).collect();
        for (step, place) in (0..).zip(&kept) {
            let pass = card.pass();
            let out = forward(&params, &ids(step, 5));
            pass.run().unwrap();
            place.assign(&out);
        }
        assert!(card.passes().launched > 4, "{:?}", card.passes());
        for (step, (place, want)) in kept.iter().zip(want).enumerate() {
            assert_eq!(values(place), want, "step {step}, streams {late:02b} late");
        }
    }
}

/// Reports are asked for ahead of the host: each is that of its own step.
#[test]
fn reports_are_not_overwritten_before_they_are_read() {
    for late in 0..4 {
        let card = fake_card::open_late(late);
        let mut params = params(&card);
        let losses = (0..6).map(|step| Tensor::scalar(step as f32 + 0.5));
        let losses: Vec<Tensor> =
            losses.map(|loss| Tape::no_grad(&params).constant(loss).value().clone()).collect();
        let (mut grads, mut adamw) = (Grads::new(&params), CardAdamW::new(&params).unwrap());
        let rule = CardRule {
            max_norm: 1.0,
            keep: 0.9,
            b1: 0.9,
            b2: 0.95,
            rate: 0.1,
            eps: 1e-5,
            left_out_at_most: 9,
        };
        let mut step = |loss: &Tensor| adamw.step(rule, std::slice::from_ref(loss), &mut params, &mut grads);
        let reports: Vec<CardReport> = losses.iter().map(|loss| step(loss).unwrap()).collect();
        let told: Vec<_> = reports.into_iter().map(|report| report.wait().unwrap()).collect();
        let want: Vec<_> = (0..6).map(|step| (0.0, vec![step as f32 + 0.5])).collect();
        assert_eq!(told, want, "streams {late:02b} late");
    }
}

/// The same without uploads in between, which the streams would wait for in any case.
#[test]
fn what_is_read_later_is_what_it_was() {
    for late in 0..4 {
        let card = fake_card::open_late(late);
        let values = (0..6).map(|i| CardBuffer::from_host(&card, &[f64::from(i)]).unwrap());
        let values: Vec<CardBuffer> = values.collect();
        let downloads: Vec<_> = values
            .iter()
            .map(|value| {
                let download = value.read_later().unwrap();
                value.clear().unwrap();
                download
            })
            .collect();
        let told: Vec<Vec<u8>> = downloads.into_iter().map(|download| download.wait().unwrap()).collect();
        let want: Vec<Vec<u8>> = (0..6).map(|i| f64::from(i).to_ne_bytes().to_vec()).collect();
        assert_eq!(told, want, "streams {late:02b} late");
    }
}

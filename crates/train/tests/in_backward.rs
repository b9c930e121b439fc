//! AdamW inside the backward pass: the bits of the ordinary way, and what happens where that cannot be.

use herd_train::bench::{LEARNING_RATE, Workload};
use herd_train::moments::MomentType;
use herd_train::packing::MicroBatch;
use herd_train::trainer::{StepOutcome, Trainer};
use herd_train::{AdamWSettings, checkpoint};
use serde_json::json;

const STEPS: usize = 20;

fn workload(tied: bool, recompute: bool) -> Workload {
    Workload {
        tied,
        recompute,
        layers: 3,
        tokens: 96,
        sequence: 0,
        longest: 60,
        ..Workload::find("W0").unwrap()
    }
}

fn trainer(workload: &Workload, moments: MomentType, in_backward: bool) -> Trainer {
    workload.trainer(AdamWSettings { clip: 0.0, moments, in_backward, ..AdamWSettings::default() })
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let [first, second] = trainer.optimizer.moments().widened();
    [trainer.params.flat(), &first, &second].concat().iter().map(|value| value.to_bits()).collect()
}

/// Steps over other tokens each, of so many micro-batches, on so many threads.
fn train(
    trainer: &mut Trainer,
    workload: &Workload,
    steps: std::ops::Range<usize>,
    micro: usize,
) -> Vec<StepOutcome> {
    steps
        .map(|step| {
            let batches: Vec<MicroBatch> =
                (0..micro).map(|i| workload.micro_batch(step * micro + i)).collect();
            trainer.step(&batches, LEARNING_RATE).unwrap()
        })
        .collect()
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn the_bits_are_those_of_the_ordinary_way() {
    for tied in [false, true] {
        for moments in [MomentType::F32, MomentType::Bf16] {
            let run = |recompute: bool, in_backward: bool, threads: usize| {
                with_threads(threads, || {
                    let workload = workload(tied, recompute);
                    let mut trainer = trainer(&workload, moments, in_backward);
                    let outcomes = train(&mut trainer, &workload, 0..STEPS, 1);
                    (outcomes, bits(&trainer))
                })
            };
            let ordinary = run(false, false, 1);
            assert!(ordinary.0[STEPS - 1].loss < ordinary.0[0].loss, "training does not reduce the loss");
            for (recompute, threads) in [(false, 1), (false, 2), (false, 3), (true, 1), (true, 3)] {
                let other = run(recompute, true, threads);
                let what = format!("tied {tied}, {moments:?}, recompute {recompute}, {threads} threads");
                assert_eq!(other.0, ordinary.0, "losses and norms: {what}");
                assert!(other.1 == ordinary.1, "parameters and moments: {what}");
            }
        }
    }
}

#[test]
fn of_several_micro_batches_the_last_updates() {
    for tied in [false, true] {
        let workload = workload(tied, true);
        let [ordinary, other] = [false, true].map(|in_backward| {
            let mut trainer = trainer(&workload, MomentType::F32, in_backward);
            (train(&mut trainer, &workload, 0..5, 3), bits(&trainer))
        });
        assert_eq!(other.0, ordinary.0);
        assert!(other.1 == ordinary.1);
    }
}

#[test]
fn a_checkpoint_of_either_way_is_continued_by_the_other() {
    for moments in [MomentType::F32, MomentType::Bf16] {
        let workload = workload(false, false);
        let mut straight = trainer(&workload, moments, false);
        train(&mut straight, &workload, 0..STEPS, 1);
        for first in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let mut before = trainer(&workload, moments, first);
            train(&mut before, &workload, 0..STEPS / 2, 1);
            checkpoint::save(folder.path(), 1, 10, &before.params, &before.optimizer, json!({})).unwrap();
            let mut after = trainer(&workload, moments, !first);
            let Trainer { params, optimizer, .. } = &mut after;
            checkpoint::latest(folder.path(), params, optimizer, |w| panic!("{w}")).unwrap().unwrap();
            train(&mut after, &workload, STEPS / 2..STEPS, 1);
            assert!(bits(&after) == bits(&straight), "{moments:?}, in the backward pass first: {first}");
        }
    }
}

#[test]
fn a_loss_that_is_not_a_number_is_met_before_anything_is_updated() {
    let workload = workload(false, false);
    let [mut clean, mut met] = [(), ()].map(|()| trainer(&workload, MomentType::F32, true));
    train(&mut clean, &workload, 0..1, 1);
    train(&mut met, &workload, 0..1, 1);
    // A row of the embedding that only the bad batch reads.
    let bad = workload.micro_batch(7);
    let good = [0, 1, 2].map(|step| workload.micro_batch(step).batch.tokens).concat();
    let token = *bad.batch.tokens.iter().find(|token| !good.contains(token)).unwrap() as usize;
    let width = met.llama.config.hidden_size;
    for trainer in [&mut clean, &mut met] {
        trainer.params.value_mut(trainer.llama.embed)[token * width] = f32::INFINITY;
    }
    let before = bits(&met);
    let problem = met.step(&[bad], LEARNING_RATE).unwrap_err();
    assert_eq!((problem.what, problem.micro_batch, problem.applied), ("loss", Some(0), false));
    assert!(bits(&met) == before, "neither weights nor moments moved");
    assert_eq!(train(&mut met, &workload, 1..3, 1), train(&mut clean, &workload, 1..3, 1));
    assert!(bits(&met) == bits(&clean), "no gradient of the bad batch is left");
}

#[test]
fn a_gradient_that_is_not_finite_says_that_the_step_was_applied() {
    let workload = workload(false, false);
    let mut trainer = trainer(&workload, MomentType::F32, true);
    let layer = trainer.llama.layers[1];
    // As in `not_finite.rs`: a finite loss, under which a product with the gradient overflows.
    for (id, factor) in [(layer.w_gate_up, 1e19f32), (layer.w_down, 1e-36), (trainer.llama.head(), 1e7)] {
        trainer.params.value_mut(id).iter_mut().for_each(|value| *value *= factor);
    }
    let problem = trainer.step(&[workload.micro_batch(0)], LEARNING_RATE).unwrap_err();
    assert_eq!(
        (problem.what, problem.micro_batch, problem.applied),
        ("gradient norm", None, true),
        "{problem}"
    );
    assert!(!problem.value.is_finite());
}

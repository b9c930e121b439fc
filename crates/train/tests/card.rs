//! Training on a card made of the processor (or a real one) beside training on the CPU:
//!
//! ```sh
//! crates/tensor/tests/card_of_cpu/build.sh FOLDER
//! HERD_CUDA_LIBS=FOLDER HERD_CUDA_POISON=1 cargo test --release -p herd-train --test card -- --ignored
//! ```

use herd_tensor::cuda::Card;
use herd_train::bench::{LEARNING_RATE, Workload, curve};
use herd_train::moments::MomentType;
use herd_train::packing::{MicroBatch, Packer};
use herd_train::trainer::Trainer;
use herd_train::{ComputeType, Place, checkpoint};

const STEPS: usize = 50;

fn agrees(dtype: ComputeType, moments: MomentType, tolerance: f64) {
    let curve = curve("cuda".parse().unwrap(), dtype, moments, STEPS).unwrap();
    println!("{} {moments:?}: largest difference {:.1e}", curve.dtype, curve.difference);
    assert_eq!(curve.card.len(), STEPS);
    assert!(curve.cpu[STEPS - 1] < 0.95 * curve.cpu[0], "the CPU learns: {:?}", curve.cpu);
    assert!(curve.difference <= tolerance, "{:e} {:?} {:?}", curve.difference, curve.cpu, curve.card);
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn fifty_steps_in_f32() {
    agrees(ComputeType::F32, MomentType::F32, 1e-4);
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn fifty_steps_in_bf16() {
    agrees(ComputeType::Bf16, MomentType::F32, 1e-2);
}

/// Rounding at random is the same function of step and place on both; a last bit that differs may change what is rounded.
#[test]
#[ignore = "needs a card: see the head of the file"]
fn fifty_steps_with_moments_in_bf16() {
    agrees(ComputeType::F32, MomentType::Bf16, 1e-3);
}

fn on_card(recompute: bool) -> Trainer {
    let place = Place { device: "cuda".parse().unwrap(), dtype: Some(ComputeType::Bf16) };
    let workload = Workload { recompute, ..Workload::find("W0").unwrap() };
    workload.trainer_on(place, MomentType::F32).unwrap()
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let [first, second] = trainer.optimizer.moments().widened();
    [trainer.params.flat(), &first, &second].concat().iter().map(|value| value.to_bits()).collect()
}

fn batch(tokens: &[u32]) -> MicroBatch {
    let mut packer = Packer::default();
    packer.push(None, 0, 0, tokens);
    packer.finish()
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn steps_have_the_same_bits_and_ask_for_no_more_memory() {
    let micro = [Workload::find("W0").unwrap().micro_batch(0), Workload::find("W0").unwrap().micro_batch(1)];
    let run = |recompute| {
        let mut trainer = on_card(recompute);
        for _ in 0..3 {
            trainer.step(&micro, LEARNING_RATE).unwrap();
        }
        bits(&trainer)
    };
    let first = run(false);
    let held = Card::open(0).unwrap().usage();
    assert!(run(false) == first, "the same steps");
    assert!(run(true) == first, "blocks computed again");
    let after = Card::open(0).unwrap().usage();
    assert!(held.held > 0 && after.requests == held.requests, "{held:?} {after:?}");
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn a_bad_loss_leaves_no_trace() {
    let good = batch(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut trainer = on_card(false);
    let (embed, width) = (trainer.llama.embed, trainer.llama.config.hidden_size);
    trainer.params.value_mut(embed)[500 * width] = f32::NAN;
    trainer.step(std::slice::from_ref(&good), LEARNING_RATE).unwrap();
    let before = bits(&trainer);
    let problem =
        trainer.step(&[good.clone(), batch(&[9, 500, 10]), good.clone()], LEARNING_RATE).unwrap_err();
    assert_eq!((problem.what, problem.micro_batch), ("loss", Some(1)));
    assert!(bits(&trainer) == before, "neither weights nor moments moved");
    assert_eq!(trainer.optimizer.steps(), 1);
    trainer.step(&[good], LEARNING_RATE).unwrap();
    assert_eq!(trainer.optimizer.steps(), 2);
}

#[test]
#[ignore = "needs a card: see the head of the file"]
fn a_run_continues_from_a_checkpoint_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let micro = [Workload::find("W0").unwrap().micro_batch(0)];
    let mut whole = on_card(false);
    whole.step(&micro, LEARNING_RATE).unwrap();
    checkpoint::save(folder.path(), 1, 1, &whole.params, &whole.optimizer, serde_json::Value::Null).unwrap();
    whole.step(&micro, LEARNING_RATE).unwrap();

    let mut resumed = on_card(false);
    resumed.params.initialize(77);
    let state = checkpoint::latest(folder.path(), &mut resumed.params, &mut resumed.optimizer, |warning| {
        panic!("{warning}")
    });
    assert_eq!(state.unwrap().unwrap().optimizer_steps, 1);
    resumed.step(&micro, LEARNING_RATE).unwrap();
    assert!(bits(&resumed) == bits(&whole));
}

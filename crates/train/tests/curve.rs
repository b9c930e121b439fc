//! 200 training steps against PyTorch: same initial weights, same documents, same loss.

use herd_model::weights;
use herd_train::moments::MomentType;
use herd_train::packing::Packer;
use herd_train::trainer::Trainer;
use herd_train::{AdamWSettings, Schedule};
use serde_json::Value;
use std::path::Path;

const VOCABULARY: u64 = 96;
const LENGTHS: [usize; 4] = [40, 24, 9, 23];

/// The small language of `golden/curve.py`.
fn document(mut state: u64, length: usize) -> Vec<u32> {
    let (k, mut token) = (state % 7, state % VOCABULARY);
    let mut out = Vec::new();
    for _ in 0..=length {
        out.push(token as u32);
        state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
        token = match (state >> 16) % 10 {
            0..8 => (token * 5 + k) % VOCABULARY,
            _ => (state >> 8) % VOCABULARY,
        };
    }
    out
}

#[test]
fn two_hundred_steps_agree_with_pytorch() {
    agree(MomentType::F32, 1e-3);
}

/// PyTorch's moments are f32, so the tolerance is what rounding them costs.
#[test]
fn two_hundred_steps_with_moments_in_bf16_stay_near() {
    agree(MomentType::Bf16, 1e-2);
}

fn agree(moments: MomentType, tolerance: f64) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let curve: Value = serde_json::from_slice(&std::fs::read(golden.join("curve.json")).unwrap()).unwrap();
    let (llama, params) = weights::load(&golden.join("curve")).unwrap();
    let mut trainer = Trainer::new(llama, params, AdamWSettings { moments, ..AdamWSettings::default() });
    let schedule = Schedule::warmup_cosine(5e-3, 5e-4, 20, 200);
    let mut worst = (0f64, 0);
    for step in 0..200u64 {
        let documents = (0..).zip(LENGTHS).map(|(i, length)| document(step * 1000 + i * 37 + 11, length));
        // Two micro-batches, which must add up to the one batch of the reference.
        let mut packer = Packer::default();
        let mut micro_batches = Vec::new();
        for (i, tokens) in documents.enumerate() {
            packer.push(Some(0), i as u64, 0, &tokens);
            if i % 2 == 1 {
                micro_batches.push(packer.finish());
            }
        }
        let outcome = trainer.step(&micro_batches, schedule.lr(step)).unwrap();
        let loss = curve["loss"][step as usize].as_f64().unwrap();
        let norm = curve["grad_norm"][step as usize].as_f64().unwrap();
        let difference = (outcome.loss / loss - 1.0).abs();
        worst = if difference > worst.0 { (difference, step) } else { worst };
        if step == 0 {
            assert!((outcome.grad_norm / norm - 1.0).abs() < 1e-4, "{} {norm}", outcome.grad_norm);
        }
    }
    println!("largest relative difference of the loss: {:.2e} at step {}", worst.0, worst.1);
    assert!(worst.0 < tolerance, "{worst:?}");
    let (first, last) = (curve["loss"][0].as_f64().unwrap(), curve["loss"][199].as_f64().unwrap());
    assert!(last < 0.8 * first, "the reference itself learns: {first} {last}");
}

//! Training on a card, with the card made of the processor, against training on the processor. Needs g++.

#![cfg(target_os = "linux")]

#[path = "../../tensor/tests/fake_card/mod.rs"]
mod fake_card;

use herd_model::weights;
use herd_tensor::cuda::DType;
use herd_train::bench::{Workload, number};
use herd_train::packing::{MicroBatch, Packer};
use herd_train::trainer::{NotFinite, Trainer};
use herd_train::{AdamWSettings, Schedule, checkpoint};
use std::path::Path;

/// A tiny Llama with grouped heads.
fn trainer() -> Trainer {
    // Another machine has the files elsewhere (`bench/gpu/pack`).
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf();
    let here = std::env::var_os("HERD_ROOT").map_or(here, |root| Path::new(&root).join("crates/train"));
    let folder = here.join("tests/golden/curve");
    let (llama, params) = weights::load(&folder).unwrap();
    Trainer::new(llama, params, AdamWSettings::default())
}

fn on_card(activations: DType) -> (Trainer, herd_tensor::cuda::Card) {
    let (mut trainer, card) = (trainer(), fake_card::open());
    trainer.to_card(&card, activations).unwrap();
    (trainer, card)
}

/// Two micro-batches of packed documents whose next token follows from the last.
fn batch(step: u32, vocabulary: u32) -> Vec<MicroBatch> {
    let mut packer = Packer::default();
    let mut micro_batches = Vec::new();
    for (i, length) in [13u32, 21, 1, 40].into_iter().enumerate() {
        let mut token = number(step, i as u32) % vocabulary;
        let tokens: Vec<u32> = (0..=length)
            .map(|_| {
                token = (token * 5 + 3) % vocabulary;
                token
            })
            .collect();
        packer.push(None, i as u64, 0, &tokens);
        if i % 2 == 1 {
            micro_batches.push(packer.finish());
        }
    }
    micro_batches
}

fn fifty_steps(activations: DType, recompute: bool, tolerance: f64) {
    let (mut host, (mut other, card)) = (trainer(), on_card(activations));
    other.recompute = recompute;
    let vocabulary = host.llama.config.vocab_size as u32;
    let schedule = Schedule::warmup_cosine(5e-3, 5e-4, 5, 50);
    let (mut losses, mut requests) = (Vec::new(), 0);
    for step in 0..50 {
        let (batch, lr) = (batch(step, vocabulary), schedule.lr(u64::from(step)));
        let [a, b] = [&mut host, &mut other].map(|trainer| trainer.step(&batch, lr).unwrap());
        let off = (a.loss / b.loss - 1.0).abs();
        assert!(off < tolerance, "step {step}: {a:?} on the host, {b:?} on the card");
        let off = (a.grad_norm / b.grad_norm - 1.0).abs();
        assert!(off < 10.0 * tolerance, "step {step}: {a:?} on the host, {b:?} on the card");
        losses.push(a.loss);
        if step == 0 {
            requests = card.usage().requests;
        }
    }
    assert!(losses[49] < 0.7 * losses[0], "it learns: {losses:?}");
    assert_eq!(card.usage().requests, requests, "a step after the first asks the driver for nothing");
}

#[test]
fn fifty_steps_in_f32_are_those_of_the_processor() {
    fifty_steps(DType::F32, false, 1e-4);
}

#[test]
fn fifty_steps_in_bf16_stay_near() {
    fifty_steps(DType::Bf16, false, 1e-2);
}

#[test]
fn fifty_steps_with_recomputation() {
    fifty_steps(DType::F32, true, 1e-4);
}

#[test]
fn a_checkpoint_of_a_card_continues_with_the_same_bits_on_it() {
    for activations in [DType::F32, DType::Bf16] {
        let (mut straight, _) = on_card(activations);
        let vocabulary = straight.llama.config.vocab_size as u32;
        let folder = tempfile::tempdir().unwrap();
        for step in 0..3 {
            straight.step(&batch(step, vocabulary), 1e-3).unwrap();
        }
        let Trainer { params, optimizer, .. } = &straight;
        checkpoint::save(folder.path(), 1, 3, params, optimizer, ().into()).unwrap();

        let (mut resumed, _) = on_card(activations);
        resumed.step(&batch(9, vocabulary), 1e-3).unwrap();
        let Trainer { params, optimizer, .. } = &mut resumed;
        let state = checkpoint::latest(folder.path(), params, optimizer, |warning| panic!("{warning}"));
        assert_eq!(state.unwrap().unwrap().optimizer_steps, 3);
        assert_eq!(straight.params.flat(), resumed.params.flat());
        for step in 3..6 {
            let outcomes = [&mut straight, &mut resumed].map(|t| t.step(&batch(step, vocabulary), 1e-3));
            assert_eq!(outcomes[0], outcomes[1]);
        }
        assert_eq!(straight.params.flat(), resumed.params.flat());
        assert_eq!(straight.optimizer.moments().widened(), resumed.optimizer.moments().widened());
    }
}

#[test]
fn a_step_that_is_not_finite_is_left_out() {
    let (mut trainer, _) = on_card(DType::Bf16);
    let vocabulary = trainer.llama.config.vocab_size as u32;
    trainer.step(&batch(0, vocabulary), 1e-3).unwrap();
    let sound = trainer.params.flat().to_vec();
    let norm = trainer.llama.norm;
    trainer.params.value_mut(norm)[0] = f32::NAN;
    let before = (trainer.params.flat().to_vec(), trainer.optimizer.moments().widened());
    let problem = trainer.step(&batch(1, vocabulary), 1e-3).unwrap_err();
    assert!(matches!(problem, NotFinite { what: "loss", micro_batch: Some(0), .. }), "{problem:?}");
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(trainer.params.flat()), bits(&before.0));
    assert_eq!(trainer.optimizer.moments().widened(), before.1);
    assert_eq!(trainer.optimizer.steps(), 1);
    // Nothing of it is left for the next step.
    trainer.params.flat_mut().copy_from_slice(&sound);
    let (mut other, _) = on_card(DType::Bf16);
    other.step(&batch(0, vocabulary), 1e-3).unwrap();
    assert_eq!(trainer.step(&batch(2, vocabulary), 1e-3), other.step(&batch(2, vocabulary), 1e-3));
}

/// Steps that are begun before the last one is finished have the same bits, also around one that is left out; once more
/// are than may be, nothing changes any more.
#[test]
fn steps_are_begun_ahead() {
    let ((mut ahead, _), (mut straight, _)) = (on_card(DType::Bf16), on_card(DType::Bf16));
    let vocabulary = straight.llama.config.vocab_size as u32;
    let rates = [1e-3, 1e-3, f64::NAN, 1e-3, 1e-3];
    for trainer in [&mut ahead, &mut straight] {
        trainer.optimizer.left_out_at_most = 1;
    }
    // A rate that is no number makes the weights NaN, so what follows is left out.
    let mut before = None;
    let (mut late, mut known) = (Vec::new(), Vec::new());
    for (step, lr) in (0..).zip(rates) {
        let begun = ahead.begin(&batch(step, vocabulary), lr);
        late.extend(before.replace(begun).map(|before| ahead.finish(before)));
        known.push(straight.step(&batch(step, vocabulary), lr));
    }
    late.push(ahead.finish(before.unwrap()));
    let told = |outcomes: &[Result<_, _>]| outcomes.iter().map(|o| format!("{o:?}")).collect::<Vec<_>>();
    assert_eq!(told(&late), told(&known));
    assert_eq!(late.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, true, false, false]);
    assert_eq!(ahead.optimizer.steps(), 3);
    // Two were left out, one more than may be: a sound step is left out too, until the host begins anew.
    for trainer in [&mut ahead, &mut straight] {
        let sound = on_card(DType::Bf16).0;
        trainer.params.flat_mut().copy_from_slice(sound.params.flat());
        trainer.step(&batch(0, vocabulary), 1e-3).unwrap_err();
        assert_eq!(trainer.params.flat(), sound.params.flat());
        trainer.reset();
        trainer.step(&batch(0, vocabulary), 1e-3).unwrap();
        assert_ne!(trainer.params.flat(), sound.params.flat());
    }
}

/// Heads of 64 columns, packed documents, an output that is the embedding.
#[test]
fn steps_with_attention_on_tensor_cores() {
    let shape = Workload { model_dimension: 128, heads: 2, kv_heads: 1, ..Workload::find("W0").unwrap() };
    let workload = Workload { tokens: 400, sequence: 0, tied: true, longest: 150, ..shape };
    assert!(workload.lengths().len() > 3, "several documents");
    let [mut host, mut other] = [(), ()].map(|()| workload.trainer(AdamWSettings::default()));
    other.to_card(&fake_card::open(), DType::Bf16).unwrap();
    let micro = [workload.micro_batch(0)];
    for step in 0..4 {
        let [a, b] = [&mut host, &mut other].map(|trainer| trainer.step(&micro, 1e-3).unwrap());
        let off = [(a.loss / b.loss - 1.0).abs(), (a.grad_norm / b.grad_norm - 1.0).abs()];
        assert!(off[0] < 2e-3 && off[1] < 2e-2, "step {step}: {a:?} on the host, {b:?} on the card");
    }
}

#[test]
fn a_gradient_alone_leaves_nothing_behind() {
    let (mut host, mut on_card, card) = (trainer(), trainer(), fake_card::open());
    on_card.weights_to_card(&card, DType::F32).unwrap();
    let (before, batch) = (host.params.flat().to_vec(), batch(0, host.llama.config.vocab_size as u32));
    let [a, b] = [&mut host, &mut on_card].map(|trainer| trainer.gradient(&batch).unwrap());
    assert!((a / b - 1.0).abs() < 1e-4, "{a} {b}");
    for trainer in [&mut host, &mut on_card] {
        assert_eq!(trainer.params.flat(), before);
        trainer.optimizer = herd_train::AdamW::new(&trainer.params, AdamWSettings::default());
    }
    on_card.to_card(&card, DType::F32).unwrap();
    assert_eq!(host.step(&batch, 1e-3), trainer().step(&batch, 1e-3));
    let mut fresh = trainer();
    fresh.to_card(&card, DType::F32).unwrap();
    assert_eq!(on_card.step(&batch, 1e-3), fresh.step(&batch, 1e-3));
}

//! Steps that a card is asked for as graphs have the same bits as those it is asked for piece by piece. On the card made of
//! the processor; needs g++.

#![cfg(target_os = "linux")]

#[path = "../../tensor/tests/fake_card/mod.rs"]
mod fake_card;

use herd_model::weights;
use herd_tensor::cuda::{Card, DType};
use herd_train::bench::number;
use herd_train::packing::{MicroBatch, Packer};
use herd_train::trainer::Trainer;
use herd_train::{AdamWSettings, Schedule, checkpoint};
use std::path::Path;

/// Rows of a micro-batch: two tiles of attention.
const ROWS: u32 = 42;

fn trainer(activations: DType, graphs: bool) -> (Trainer, Card) {
    trainer_on(fake_card::open(), activations, graphs)
}

fn trainer_on(card: Card, activations: DType, graphs: bool) -> (Trainer, Card) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf();
    let here = std::env::var_os("HERD_ROOT").map_or(here, |root| Path::new(&root).join("crates/train"));
    let (llama, params) = weights::load(&here.join("tests/golden/curve")).unwrap();
    let mut trainer = Trainer::new(llama, params, AdamWSettings::default());
    trainer.to_card(&card, activations).unwrap();
    card.set_graphs(graphs);
    (trainer, card)
}

/// Documents of other lengths in each step and micro-batch, `rows` in all, whose next token follows from the last.
fn micro_batch(step: u32, index: u32, rows: u32) -> MicroBatch {
    let (mut packer, mut left, mut i) = (Packer::default(), rows, 0);
    while left > 0 {
        let length = (1 + number(step * 31 + index, i) % 60).min(left);
        let mut token = number(step + 7 * index, i) % 96;
        let tokens: Vec<u32> = (0..=length)
            .map(|_| {
                token = (token * 5 + 3) % 96;
                token
            })
            .collect();
        packer.push(None, u64::from(i), 0, &tokens);
        (left, i) = (left - length, i + 1);
    }
    packer.finish()
}

fn batch(step: u32, micro_batches: u32) -> Vec<MicroBatch> {
    (0..micro_batches).map(|index| micro_batch(step, index, ROWS)).collect()
}

fn same_state(a: &Trainer, b: &Trainer) {
    let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    assert!(bits(a.params.flat()) == bits(b.params.flat()), "weights differ");
    assert!(a.optimizer.moments().widened() == b.optimizer.moments().widened(), "moments differ");
}

/// Twenty steps with and without graphs.
fn twenty_steps(activations: DType, recompute: bool, batch: impl Fn(u32) -> Vec<MicroBatch>) -> Card {
    let ((mut plain, without), (mut graphs, card)) =
        (trainer(activations, false), trainer(activations, true));
    let schedule = Schedule::warmup_cosine(5e-3, 5e-4, 5, 20);
    for step in 0..20 {
        let (batch, lr) = (batch(step), schedule.lr(u64::from(step)));
        let outcomes = [&mut plain, &mut graphs].map(|trainer| {
            trainer.recompute = recompute;
            trainer.step(&batch, lr).unwrap()
        });
        assert_eq!(outcomes[0], outcomes[1], "step {step}");
    }
    same_state(&plain, &graphs);
    let [off, on] = [without, card.clone()].map(|card| card.passes());
    assert_eq!((off.launched, off.captured), (0, 0), "{off:?}");
    assert!(on.launched > on.lists / 2 && on.captured >= 2 && on.refused.is_none(), "{on:?}");
    card
}

#[test]
fn graphs_have_the_same_bits_in_f32() {
    twenty_steps(DType::F32, false, |step| batch(step, 1));
}

#[test]
fn graphs_have_the_same_bits_in_bf16() {
    twenty_steps(DType::Bf16, false, |step| batch(step, 1));
}

#[test]
fn graphs_have_the_same_bits_with_recomputation() {
    twenty_steps(DType::Bf16, true, |step| batch(step, 2));
}

/// All micro-batches of a step are one graph, launched for each of them, and so the number of them may change.
#[test]
fn micro_batches_share_their_graphs() {
    let card = twenty_steps(DType::F32, false, |step| batch(step, if step < 10 { 3 } else { 4 }));
    let usage = card.passes();
    assert!(usage.launched > 60 && usage.captured <= 6, "{usage:?}");
}

/// A step whose last micro-batch is shorter: there are two sizes of lists.
#[test]
fn sizes_that_take_turns_have_graphs_each() {
    let sizes = |step| vec![micro_batch(step, 0, ROWS), micro_batch(step, 1, 25)];
    let usage = twenty_steps(DType::F32, false, sizes).passes();
    assert!(usage.launched > 40, "{usage:?}");
}

#[test]
fn a_run_with_graphs_resumes_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (mut straight, _) = trainer(DType::Bf16, true);
    for step in 0..6 {
        straight.step(&batch(step, 2), 1e-3).unwrap();
    }
    checkpoint::save(folder.path(), 1, 6, &straight.params, &straight.optimizer, ().into()).unwrap();
    let (mut resumed, card) = trainer(DType::Bf16, true);
    for step in 30..35 {
        resumed.step(&batch(step, 2), 1e-3).unwrap();
    }
    let Trainer { params, optimizer, .. } = &mut resumed;
    let state = checkpoint::latest(folder.path(), params, optimizer, |warning| panic!("{warning}"));
    assert_eq!(state.unwrap().unwrap().optimizer_steps, 6);
    for step in 6..12 {
        let outcomes = [&mut straight, &mut resumed].map(|trainer| trainer.step(&batch(step, 2), 1e-3));
        assert_eq!(outcomes[0], outcomes[1], "step {step}");
    }
    same_state(&straight, &resumed);
    assert!(card.passes().launched > 10, "{:?}", card.passes());
}

/// Copies run beside compute. Whichever of the two streams is late, and both, also if several steps are begun before the
/// first is finished: no step reads tokens that are not there yet or not there any more, and no loss is told that is another's.
#[test]
fn streams_that_run_late_change_nothing() {
    let (mut plain, _) = trainer(DType::F32, false);
    let told: Vec<_> = (0..8).map(|step| plain.step(&batch(step, 3), 1e-3).unwrap()).collect();
    for late in 1..4 {
        let (mut ahead, card) = trainer_on(fake_card::open_late(late), DType::F32, true);
        for first in [0, 4] {
            let begun: Vec<_> = (first..first + 4).map(|step| ahead.begin(&batch(step, 3), 1e-3)).collect();
            let outcomes: Vec<_> = begun.into_iter().map(|step| ahead.finish(step).unwrap()).collect();
            assert_eq!(outcomes, told[first as usize..][..4], "streams {late:02b} late");
        }
        same_state(&plain, &ahead);
        assert!(card.passes().launched > 12, "{:?}", card.passes());
    }
}

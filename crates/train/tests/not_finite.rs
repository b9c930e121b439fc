//! A step whose loss or gradient is not a number leaves no trace.

use herd_train::AdamWSettings;
use herd_train::bench::{LEARNING_RATE, Workload};
use herd_train::packing::{MicroBatch, Packer};
use herd_train::trainer::Trainer;

fn trainer() -> Trainer {
    Workload::find("W0").unwrap().trainer(AdamWSettings::default())
}

fn batch(tokens: &[u32]) -> MicroBatch {
    let mut packer = Packer::default();
    packer.push(None, 0, 0, tokens);
    packer.finish()
}

fn bits(trainer: &Trainer) -> Vec<u32> {
    let [first, second] = trainer.optimizer.moments().widened();
    [trainer.params.flat(), &first, &second].concat().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_bad_loss_names_its_micro_batch_and_the_run_goes_on_as_if_it_had_never_been() {
    let good = batch(&[1, 2, 3, 4, 5, 6, 7, 8]);
    for poison in [f32::NAN, f32::INFINITY] {
        let (mut clean, mut met) = (trainer(), trainer());
        // A row of the embedding that only the bad batch reads.
        for trainer in [&mut clean, &mut met] {
            let (embed, width) = (trainer.llama.embed, trainer.llama.config.hidden_size);
            trainer.params.value_mut(embed)[500 * width] = poison;
        }
        let bad = batch(&[9, 500, 10, 11]);
        for trainer in [&mut clean, &mut met] {
            trainer.step(std::slice::from_ref(&good), LEARNING_RATE).unwrap();
        }
        let before = bits(&met);
        let problem = met.step(&[good.clone(), bad, good.clone()], LEARNING_RATE).unwrap_err();
        assert_eq!((problem.what, problem.micro_batch), ("loss", Some(1)));
        assert!(!problem.value.is_finite());
        assert!(bits(&met) == before, "neither weights nor moments moved");
        for _ in 0..2 {
            let expected = clean.step(std::slice::from_ref(&good), LEARNING_RATE).unwrap();
            let outcome = met.step(std::slice::from_ref(&good), LEARNING_RATE).unwrap();
            assert_eq!(outcome, expected);
        }
        assert!(bits(&met) == bits(&clean), "no gradient of the bad batch is left");
    }
}

#[test]
fn a_gradient_that_overflows_under_a_finite_loss_is_met_too() {
    let mut trainer = trainer();
    let micro = Workload::find("W0").unwrap().micro_batch(0);
    let layer = trainer.llama.layers[1];
    // Activations of about 1e37 that weights of 1e-38 bring back to earth; their product with the gradient overflows.
    let head = trainer.llama.head();
    for (id, factor) in [(layer.w_gate_up, 1e19f32), (layer.w_down, 1e-36), (head, 1e7)] {
        trainer.params.value_mut(id).iter_mut().for_each(|value| *value *= factor);
    }
    let before = bits(&trainer);
    let problem = trainer.step(&[micro], LEARNING_RATE).unwrap_err();
    assert_eq!((problem.what, problem.micro_batch), ("gradient norm", None), "{problem}");
    assert!(bits(&trainer) == before);
}

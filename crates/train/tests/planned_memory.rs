//! The plan of a step's memory against what the step takes. One test: what is measured belongs to the whole process.

use herd_tensor::pool;
use herd_train::AdamWSettings;
use herd_train::bench::{LEARNING_RATE, Plan, Workload};

#[test]
fn a_step_takes_what_was_planned() {
    let base = Workload {
        name: "plan",
        model_dimension: 256,
        layers: 4,
        heads: 4,
        kv_heads: 2,
        ffn_dimension: 768,
        vocabulary: 8000,
        tokens: 1024,
        sequence: 256,
        ..Workload::find("W0").unwrap()
    };
    let wide = Workload { vocabulary: 40_000, layers: 1, ..base };
    let long = Workload { sequence: 0, tokens: 2048, ..base };
    let deep = Workload { layers: 12, recompute: true, ..base };
    let in_backward = AdamWSettings { clip: 0.0, in_backward: true, ..AdamWSettings::default() };
    let both = [AdamWSettings::default(), in_backward];
    for (workload, optimizer) in [base, wide, long, deep].into_iter().flat_map(|w| both.map(|o| (w, o))) {
        let micro = workload.micro_batch(0);
        let plan = Plan::of(&workload, &micro, &optimizer);
        let mut trainer = workload.trainer(optimizer);
        pool::trim();
        let before = pool::usage().live;
        for _ in 0..2 {
            trainer.step(std::slice::from_ref(&micro), LEARNING_RATE).unwrap();
        }
        let taken = (pool::usage().peak_live - before) as f64;
        let planned = (plan.activations + plan.workspace) as f64;
        println!(
            "{workload:?} {optimizer:?}: planned {planned:.3e}, taken {taken:.3e}, {:.2}",
            taken / planned
        );
        assert!(
            (0.9..1.1).contains(&(taken / planned)),
            "{workload:?} {optimizer:?}: {planned} planned, {taken} taken"
        );
    }
}

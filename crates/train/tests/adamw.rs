//! The optimizer against PyTorch's, and its behaviour at the edges.

use herd_tensor::{Grads, Init, ParamSpec, Params};
use herd_train::moments::MomentType;
use herd_train::{AdamW, AdamWSettings};
use rayon::ThreadPoolBuilder;
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn both(value: &Value) -> Vec<f32> {
    [numbers(&value[0]), numbers(&value[1])].concat()
}

#[test]
fn ten_steps_agree_with_pytorch() {
    let golden: Value = serde_json::from_str(include_str!("golden/adamw.json")).unwrap();
    let specs =
        vec![ParamSpec::new("matrix", &[5, 7], Init::Zeros), ParamSpec::new("vector", &[3], Init::Zeros)];
    let mut params = Params::new(specs);
    let mut grads = Grads::new(&params);
    params.flat_mut().copy_from_slice(&both(&golden["start"]));
    let mut optimizer = AdamW::new(&params, AdamWSettings::default());
    for (i, step) in golden["steps"].as_array().unwrap().iter().enumerate() {
        grads.flat_mut().copy_from_slice(&both(&step["grads"]));
        let stats = optimizer.step(&mut params, &mut grads, step["lr"].as_f64().unwrap()).unwrap();
        let norm = step["norm"].as_f64().unwrap();
        assert!((stats.grad_norm / norm - 1.0).abs() < 1e-6, "step {i}: {} {norm}", stats.grad_norm);
        for (ours, theirs) in params.flat().iter().zip(both(&step["after"])) {
            assert!((ours - theirs).abs() < 2e-6 * (1.0 + theirs.abs()), "step {i}: {ours} {theirs}");
        }
        assert!(grads.flat().iter().all(|&g| g == 0.0), "gradients are cleared for the next step");
    }
}

fn large() -> (Params, Grads) {
    let specs = vec![
        ParamSpec::new("a", &[300, 333], Init::Normal { std: 1.0 }),
        ParamSpec::new("b", &[333], Init::Ones),
        ParamSpec::new("c", &[77, 1001], Init::Normal { std: 0.1 }),
    ];
    let mut params = Params::new(specs);
    params.initialize(7);
    let grads = Grads::new(&params);
    (params, grads)
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let run = |moments, threads| {
        ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let (mut params, mut grads) = large();
            let mut optimizer = AdamW::new(&params, AdamWSettings { moments, ..AdamWSettings::default() });
            let mut norms = Vec::new();
            for step in 0..3u64 {
                let values = grads.flat_mut().iter_mut().enumerate();
                values
                    .for_each(|(i, g)| *g = ((i as u64 * 2_654_435_761 + step) % 1000) as f32 / 500.0 - 1.0);
                norms.push(optimizer.step(&mut params, &mut grads, 0.01).unwrap().grad_norm.to_bits());
            }
            (norms, params.flat().iter().map(|x| x.to_bits()).collect::<Vec<_>>())
        })
    };
    for moments in [MomentType::F32, MomentType::Bf16] {
        let one = run(moments, 1);
        assert!([2, 3, 7].into_iter().all(|threads| one == run(moments, threads)), "{moments:?}");
    }
}

#[test]
fn a_gradient_that_is_not_a_number_changes_nothing() {
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (mut params, mut grads) = large();
        let mut optimizer = AdamW::new(&params, AdamWSettings::default());
        grads.flat_mut().fill(0.5);
        optimizer.step(&mut params, &mut grads, 0.01).unwrap();
        let before = (params.flat().to_vec(), optimizer.moments().widened());
        grads.flat_mut().fill(0.5);
        grads.flat_mut()[100_001] = poison;
        assert!(!optimizer.step(&mut params, &mut grads, 0.01).unwrap_err().norm.is_finite());
        let after = (params.flat().to_vec(), optimizer.moments().widened());
        assert!(before == after && optimizer.steps() == 1);
        assert!(grads.flat().iter().all(|&g| g == 0.0), "the poison does not reach the next step");
    }
}

#[test]
fn rows_that_never_had_a_gradient_only_decay() {
    let run = |moments, dense: bool| {
        let settings = AdamWSettings { clip: 0.0, moments, ..AdamWSettings::default() };
        let (mut params, mut grads) = large();
        let table = params.id("a").unwrap();
        let mut optimizer = AdamW::new(&params, settings);
        for step in 0..4usize {
            let rows = [3 * step, 100 + step, 299];
            let values = if dense { grads.of_mut(table) } else { grads.rows_mut(table, rows.into_iter()) };
            for row in rows {
                for (i, g) in values[row * 333..(row + 1) * 333].iter_mut().enumerate() {
                    *g = (i % 19) as f32 - step as f32;
                }
            }
            optimizer.step(&mut params, &mut grads, 0.01).unwrap();
        }
        assert!(grads.flat().iter().all(|&g| g == 0.0));
        (params.flat().to_vec(), optimizer.moments().widened())
    };
    let sparse = run(MomentType::F32, false);
    assert_eq!(sparse, run(MomentType::F32, true));
    assert_eq!(run(MomentType::Bf16, false), run(MomentType::Bf16, true));
    let (start, _) = large();
    let decayed = start.flat()[50 * 333] * (1.0f32 - 0.001).powi(4);
    assert!((sparse.0[50 * 333] - decayed).abs() < 1e-6, "{} {decayed}", sparse.0[50 * 333]);
}

/// A moment that follows a constant gradient arrives at it on average, though each step changes it by less than bf16 can
/// say: with rounding to the nearest, the second moment would stop at a tenth below.
#[test]
fn moments_in_bf16_lose_nothing_on_average() {
    let mut params = Params::new(vec![ParamSpec::new("a", &[64, 1024], Init::Zeros)]);
    let mut grads = Grads::new(&params);
    let settings = AdamWSettings { clip: 0.0, moments: MomentType::Bf16, ..AdamWSettings::default() };
    let mut optimizer = AdamW::new(&params, settings);
    for _ in 0..400 {
        grads.flat_mut().fill(0.7);
        optimizer.step(&mut params, &mut grads, 1e-3).unwrap();
    }
    let [first, second] = optimizer.moments().widened();
    for (moments, wanted) in [(first, 0.7), (second, 0.49)] {
        let mean = moments.iter().map(|&x| f64::from(x)).sum::<f64>() / moments.len() as f64;
        assert!((mean / wanted - 1.0).abs() < 2e-4, "{mean} instead of {wanted}");
        let far = moments.iter().map(|&x| (f64::from(x) / wanted - 1.0).abs()).fold(0.0, f64::max);
        assert!(far > 1e-4 && far < 0.04, "single moments are rounded: {far}");
    }
}

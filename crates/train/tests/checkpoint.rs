//! Checkpoints: the same bits back, damage noticed, the one before it used.

use herd_tensor::{Grads, Init, ParamSpec, Params};
use herd_train::moments::MomentType;
use herd_train::{AdamW, AdamWSettings, checkpoint};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

fn model(width: usize) -> (Params, AdamW) {
    model_with(width, MomentType::F32)
}

fn model_with(width: usize, moments: MomentType) -> (Params, AdamW) {
    let specs = vec![
        ParamSpec::new("matrix", &[width, 1000], Init::Normal { std: 1.0 }),
        ParamSpec::new("norm", &[1000], Init::Ones),
    ];
    let mut params = Params::new(specs);
    params.initialize(4);
    let optimizer = AdamW::new(&params, AdamWSettings { moments, ..AdamWSettings::default() });
    (params, optimizer)
}

/// Three checkpoints, after steps 10, 20 and 30; returns the parameters at each.
fn three(folder: &Path, keep: usize) -> Vec<Vec<f32>> {
    let (mut params, mut optimizer) = model(700);
    let mut grads = Grads::new(&params);
    [10, 20, 30]
        .map(|step| {
            grads.flat_mut().iter_mut().enumerate().for_each(|(i, g)| *g = (i % 17) as f32 - step as f32);
            optimizer.step(&mut params, &mut grads, 0.1).unwrap();
            checkpoint::save(folder, keep, step, &params, &optimizer, json!({"at": step})).unwrap();
            params.flat().to_vec()
        })
        .to_vec()
}

fn newest(folder: &Path) -> PathBuf {
    checkpoint::list(folder).unwrap()[0].1.clone()
}

#[test]
fn everything_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let saved = three(dir.path(), 3);
    let (mut params, mut optimizer) = model(700);
    let state =
        checkpoint::latest(dir.path(), &mut params, &mut optimizer, |w| panic!("{w}")).unwrap().unwrap();
    assert_eq!((state.step, state.optimizer_steps, state.extra), (30, 3, json!({"at": 30})));
    assert_eq!(params.flat(), saved[2]);
    // The moments as well: the next step of the restored optimizer is that of the original.
    let step = |params: &mut Params, optimizer: &mut AdamW| {
        let mut grads = Grads::new(params);
        grads.flat_mut().fill(0.25);
        optimizer.step(params, &mut grads, 0.1).unwrap();
    };
    step(&mut params, &mut optimizer);
    let other = tempfile::tempdir().unwrap();
    let (mut straight, mut straight_optimizer) = model(700);
    three(other.path(), 1);
    checkpoint::load(&newest(other.path()), &mut straight, &mut straight_optimizer).unwrap();
    step(&mut straight, &mut straight_optimizer);
    assert_eq!(params.flat(), straight.flat());
    assert_eq!(optimizer.steps(), 4);
}

#[test]
fn only_the_newest_are_kept_and_they_are_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let saved = three(dir.path(), 2);
    let steps: Vec<u64> = checkpoint::list(dir.path()).unwrap().iter().map(|c| c.0).collect();
    assert_eq!(steps, [30, 20]);
    let bytes = fs::read(newest(dir.path()).join("parameters.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let matrix = file.tensor("matrix").unwrap();
    assert_eq!(matrix.shape(), [700, 1000]);
    let first = f32::from_le_bytes(matrix.data()[..4].try_into().unwrap());
    assert_eq!(first, saved[2][0]);
    assert_eq!(file.tensor("norm").unwrap().shape(), [1000]);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_warning() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 7] = [
        ("truncated", |c| {
            let path = c.join("second_moment.safetensors");
            let length = fs::metadata(&path).unwrap().len();
            fs::File::options().write(true).open(path).unwrap().set_len(length / 2).unwrap();
        }),
        ("empty", |c| fs::write(c.join("parameters.safetensors"), "").unwrap()),
        ("longer", |c| {
            let path = c.join("parameters.safetensors");
            let bytes = [fs::read(&path).unwrap(), vec![0]].concat();
            fs::write(path, bytes).unwrap();
        }),
        ("one bit", |c| {
            let path = c.join("first_moment.safetensors");
            let mut bytes = fs::read(&path).unwrap();
            bytes[1_234_567] ^= 4;
            fs::write(path, bytes).unwrap();
        }),
        ("state", |c| {
            let path = c.join("state.json");
            let text = fs::read_to_string(&path).unwrap().replace("30", "31");
            fs::write(path, text).unwrap();
        }),
        ("sums", |c| fs::write(c.join("checksums.b3"), "nonsense").unwrap()),
        ("gone", |c| fs::remove_file(c.join("parameters.safetensors")).unwrap()),
    ];
    for (name, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let saved = three(dir.path(), 3);
        damage(&newest(dir.path()));
        let (mut params, mut optimizer) = model(700);
        let mut warnings = Vec::new();
        let state =
            checkpoint::latest(dir.path(), &mut params, &mut optimizer, |w| warnings.push(w)).unwrap();
        assert_eq!(state.unwrap().step, 20, "{name}");
        assert_eq!(params.flat(), saved[1], "{name}");
        assert!(warnings.len() == 1 && warnings[0].contains("step-0000000030"), "{name}: {warnings:?}");
    }
}

#[test]
fn without_a_sound_checkpoint_there_is_none_and_another_model_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (mut params, mut optimizer) = model(700);
    assert!(
        checkpoint::latest(&dir.path().join("no"), &mut params, &mut optimizer, |_| ()).unwrap().is_none()
    );
    three(dir.path(), 1);
    let (mut other, mut other_optimizer) = model(701);
    let error = checkpoint::latest(dir.path(), &mut other, &mut other_optimizer, |_| ()).unwrap_err();
    assert!(error.to_string().contains("not those of this model"), "{error}");
    fs::write(newest(dir.path()).join("state.json"), "{").unwrap();
    let mut warnings = 0;
    assert!(
        checkpoint::latest(dir.path(), &mut params, &mut optimizer, |_| warnings += 1).unwrap().is_none()
    );
    assert_eq!(warnings, 1);
}

#[test]
fn moments_in_bf16_come_back_and_are_not_taken_for_f32() {
    let dir = tempfile::tempdir().unwrap();
    let (mut params, mut optimizer) = model_with(70, MomentType::Bf16);
    let mut grads = Grads::new(&params);
    grads.flat_mut().iter_mut().enumerate().for_each(|(i, g)| *g = (i % 17) as f32 - 8.0);
    optimizer.step(&mut params, &mut grads, 0.1).unwrap();
    let path = checkpoint::save(dir.path(), 1, 1, &params, &optimizer, json!(null)).unwrap();
    let size = |file: &str| fs::metadata(path.join(file)).unwrap().len();
    assert!(size("first_moment.safetensors") < size("parameters.safetensors") * 51 / 100);

    let (mut other, mut restored) = model_with(70, MomentType::Bf16);
    checkpoint::load(&path, &mut other, &mut restored).unwrap();
    assert_eq!(restored.moments().widened(), optimizer.moments().widened());
    let [first, second] = restored.moments().widened();
    assert!(first.iter().chain(&second).filter(|m| **m != 0.0).count() > 130_000);

    let (mut other, mut wide) = model(70);
    let error = checkpoint::load(&path, &mut other, &mut wide).unwrap_err();
    assert!(matches!(error, checkpoint::Error::OtherModel { .. }), "{error}");
}

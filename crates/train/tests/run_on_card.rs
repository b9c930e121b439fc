//! The stage on a card made of the processor: the loss comes back one step late, and nothing else is different. Needs g++.
//! One test alone, since it tells this process where the card's libraries are.

#![cfg(target_os = "linux")]

mod corpus;
#[path = "../../tensor/tests/fake_card/mod.rs"]
mod fake_card;

use herd_run::Context;
use herd_train::pretrain::{Error, NonFinitePolicy};
use herd_train::{BatchGrowth, Device, Settings, Summary, metrics, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Data {
    tokenizer: PathBuf,
    shards: PathBuf,
}

impl Data {
    fn pretrain(&self, settings: &Settings, folder: &Path, ctx: &Context) -> Result<Summary, Error> {
        let shape = herd_model::Settings {
            layers: 1,
            model_dimension: 16,
            ffn_dimension: 32,
            attention_heads: 2,
            key_value_heads: 1,
            max_context: 64,
            ..herd_model::Settings::default()
        };
        let words = herd_tokenizer::Tokenizer::load(&self.tokenizer).unwrap().vocab_size();
        let (out, base) = (folder.join("pretrain"), folder.join("base"));
        run(settings, shape.config(words, 0, vec![1]), &self.shards, &self.tokenizer, &out, &base, ctx)
    }
}

/// Ten steps with something due after the sixth and the last two.
fn settings() -> Settings {
    let mut s = Settings { seed: 5, micro_batch_tokens: 64, device: Device::Cuda, ..Settings::default() };
    s.checkpoint.every_steps = 6;
    s.held_out.every_steps = 0;
    s.held_out.tokens = 64;
    s.initial.steps = 8;
    s.initial.warmup_steps = 2;
    s.initial.batch = BatchGrowth::fixed(128, 64);
    s.long_context.contexts = Vec::new();
    s.long_context.needle_depths = 1;
    s.long_context.needle_samples = 1;
    s.annealing.steps = 2;
    s.annealing.batch_tokens = 64;
    s.annealing.average = 1;
    s
}

/// The final weights, and every step's loss.
fn result(folder: &Path) -> (Vec<u8>, Vec<(u64, f64)>) {
    let lines = metrics::read(&folder.join("pretrain")).unwrap();
    let loss = |line: &serde_json::Map<String, serde_json::Value>| {
        Some((line["step"].as_u64()?, line.get("train/loss")?.as_f64()?))
    };
    (fs::read(folder.join("base/model.safetensors")).unwrap(), lines.iter().filter_map(loss).collect())
}

/// The files of the newest checkpoint.
fn checkpoint(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let steps = fs::read_dir(folder.join("pretrain/checkpoints")).unwrap();
    let newest = steps.map(|entry| entry.unwrap().path()).max().unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(&newest).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let name = |path: &Path| path.strip_prefix(folder).unwrap().to_path_buf();
    files.iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
}

/// Runs until a few steps are recorded, then asks it to stop.
fn interrupted(data: &Data, folder: &Path) {
    let ctx = Context::quiet();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| data.pretrain(&settings(), folder, &ctx));
        while !running.is_finished() {
            if metrics::read(&folder.join("pretrain")).is_ok_and(|lines| lines.len() >= 2) {
                ctx.stop.request();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(matches!(running.join().unwrap(), Err(Error::Interrupted(_))));
    });
}

#[test]
fn a_loss_that_comes_late_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // SAFETY: no other thread of this process reads or writes the environment yet.
    unsafe {
        std::env::set_var("HERD_CUDA_LIBS", fake_card::folder());
        std::env::set_var("XDG_CACHE_HOME", folder.path());
    }
    let (tokenizer, shards) = corpus::build(folder.path(), 600);
    let data = Data { tokenizer, shards };
    let attempt = |settings: &Settings, name: &str| {
        let out = folder.path().join(name);
        (data.pretrain(settings, &out, &Context::quiet()), out)
    };
    let (late, late_out) = attempt(&settings(), "late");
    let late = late.unwrap();
    assert!(
        late.mfu.is_none() && late.notes.iter().any(|note| note.contains("pretrain.peak_flops")),
        "{late:?}"
    );
    let right = result(&late_out);
    assert_eq!(right.1.len(), 10);
    // A checkpoint is due after every step, so each is waited for.
    let mut waiting = settings();
    waiting.checkpoint.every_steps = 1;
    let (done, out) = attempt(&waiting, "waiting");
    done.unwrap();
    assert!(result(&out) == right, "the same without a step begun ahead");
    let out = folder.path().join("interrupted");
    interrupted(&data, &out);
    data.pretrain(&settings(), &out, &Context::quiet()).unwrap();
    assert!(result(&out) == right, "the same after an interruption");

    // A decay that makes weights grow, until products of what they give are no numbers.
    for (policy, at_most, skipped) in [(NonFinitePolicy::Stop, 0, 1), (NonFinitePolicy::Skip, 2, 3)] {
        let mut broken = settings();
        broken.optimizer.weight_decay = 1e15;
        broken.non_finite.policy = policy;
        broken.non_finite.at_most = at_most;
        let (late, late_out) = attempt(&broken, &format!("late {policy:?}"));
        broken.checkpoint.every_steps = 1;
        let (waiting, out) = attempt(&broken, &format!("waiting {policy:?}"));
        let told = |outcome| match outcome {
            Err(Error::NonFinite { step, skipped, .. }) => (step, skipped),
            other => panic!("{policy:?}: {other:?}"),
        };
        let (late, waiting) = (told(late), told(waiting));
        assert_eq!(late, waiting);
        assert!(late.0 > u64::from(skipped) && late.1 == skipped, "{policy:?}: {late:?}");
        assert!(checkpoint(&late_out) == checkpoint(&out), "{policy:?}: what is saved is the same");
    }
}

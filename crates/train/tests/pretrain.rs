//! The stage end to end on a small real corpus: it learns, it stops and continues with the same bits, it is honest.

mod corpus;

use herd_model::{Llama, LlamaConfig, weights};
use herd_run::Context;
use herd_train::pretrain::{Error, NonFinitePolicy};
use herd_train::{AdamW, BatchGrowth, BatchStage, Settings, Summary, average, checkpoint, metrics, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Shards and tokenizer, made once for all tests.
fn data() -> &'static (PathBuf, PathBuf) {
    static DATA: OnceLock<(tempfile::TempDir, (PathBuf, PathBuf))> = OnceLock::new();
    let (_, paths) = DATA.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let paths = corpus::build(dir.path(), 700);
        (dir, paths)
    });
    paths
}

fn model() -> LlamaConfig {
    let shape = herd_model::Settings {
        layers: 2,
        model_dimension: 48,
        ffn_dimension: 96,
        attention_heads: 4,
        key_value_heads: 2,
        max_context: 256,
        ..herd_model::Settings::default()
    };
    shape.config(herd_tokenizer::Tokenizer::load(&data().0).unwrap().vocab_size(), 0, vec![1])
}

/// All three phases in 26 steps, with batch and sequence growth.
fn settings() -> Settings {
    let mut s = Settings { seed: 5, micro_batch_tokens: 256, peak_flops: 1e9, ..Settings::default() };
    s.checkpoint.every_steps = 4;
    s.held_out.every_steps = 5;
    s.held_out.tokens = 300;
    s.initial.steps = 12;
    s.initial.warmup_steps = 3;
    let stage = |after_tokens, batch_tokens, sequence| BatchStage { after_tokens, batch_tokens, sequence };
    s.initial.batch = BatchGrowth(vec![stage(0, 256, 64), stage(1000, 512, 128)]);
    s.long_context.contexts = vec![192, 256];
    s.long_context.batch_tokens = 768;
    s.long_context.steps_per_stage = 4;
    s.long_context.evaluate_every = 2;
    s.long_context.needle_depths = 2;
    s.long_context.needle_samples = 1;
    s.annealing.steps = 6;
    s.annealing.batch_tokens = 512;
    s.annealing.average = 3;
    s
}

fn pretrain(settings: &Settings, folder: &Path, ctx: &Context) -> Result<Summary, Error> {
    let (tokenizer, shards) = data();
    run(settings, model(), shards, tokenizer, &folder.join("pretrain"), &folder.join("models/base"), ctx)
}

fn with_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

fn final_bytes(folder: &Path) -> Vec<u8> {
    fs::read(folder.join("models/base/model.safetensors")).unwrap()
}

/// Losses by step, without the times.
fn losses(folder: &Path) -> Vec<(u64, f64)> {
    let lines = metrics::read(&folder.join("pretrain")).unwrap();
    let loss = |line: &serde_json::Map<String, serde_json::Value>| {
        Some((line["step"].as_u64()?, line.get("train/loss")?.as_f64()?))
    };
    lines.iter().filter_map(loss).collect()
}

/// Summary, bytes of the final weights, losses by step.
type Outcome = (Summary, Vec<u8>, Vec<(u64, f64)>);

/// The uninterrupted run on one thread, made once.
fn straight() -> &'static Outcome {
    static STRAIGHT: OnceLock<Outcome> = OnceLock::new();
    STRAIGHT.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let summary = with_threads(1, || pretrain(&settings(), dir.path(), &Context::quiet())).unwrap();
        (summary, final_bytes(dir.path()), losses(dir.path()))
    })
}

/// Runs until `step` lines of metrics are there, then asks it to stop. It may have finished before it noticed.
fn interrupted(folder: &Path, threads: usize, step: usize) -> Result<Summary, Error> {
    let ctx = Context::quiet();
    let stop = ctx.stop.clone();
    let out = folder.join("pretrain");
    std::thread::scope(|scope| {
        let running = scope.spawn(|| with_threads(threads, || pretrain(&settings(), folder, &ctx)));
        while !running.is_finished() {
            if metrics::read(&out).is_ok_and(|lines| lines.len() >= step) {
                stop.request();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        running.join().unwrap()
    })
}

#[test]
fn stopped_anywhere_and_continued_with_other_threads_the_bits_are_the_same() {
    let (summary, bytes, curve) = straight();
    assert_eq!(curve.len() as u64, summary.steps);
    for (threads, step) in [(2, 3), (3, 17), (1, 30)] {
        let dir = tempfile::tempdir().unwrap();
        let first = interrupted(dir.path(), threads, step);
        assert!(
            matches!(first, Err(Error::Interrupted(_))),
            "stopped within a step of line {step}: {first:?}"
        );
        assert!(!dir.path().join("models").exists(), "no model before the end");
        with_threads(threads + 1, || pretrain(&settings(), dir.path(), &Context::quiet())).unwrap();
        assert!(final_bytes(dir.path()) == *bytes, "stopped at line {step}");
        assert_eq!(losses(dir.path()), *curve, "metrics are cut to the resumed step and go on");
    }
}

#[test]
fn blocks_computed_again_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { recompute: true, ..settings() };
    with_threads(2, || pretrain(&settings, dir.path(), &Context::quiet())).unwrap();
    let (_, bytes, expected) = straight();
    assert_eq!(&losses(dir.path()), expected);
    assert!(final_bytes(dir.path()) == *bytes, "final weights");
}

#[test]
fn after_kill_9_and_a_torn_checkpoint_the_bits_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    interrupted(dir.path(), 2, 20).unwrap_err();
    // As a kill leaves it: metrics run ahead of the newest sound checkpoint, that of the stop is torn.
    let checkpoints = herd_train::checkpoint::list(&dir.path().join("pretrain/checkpoints")).unwrap();
    assert!(checkpoints.len() > 1, "{checkpoints:?}");
    fs::write(checkpoints[0].1.join("parameters.safetensors"), "torn").unwrap();
    fs::create_dir_all(dir.path().join("pretrain/checkpoints/.step-0000000099.tmp")).unwrap();
    let summary = pretrain(&settings(), dir.path(), &Context::quiet()).unwrap();
    assert!(final_bytes(dir.path()) == straight().1);
    assert!(summary.notes.iter().any(|note| note.contains("damaged")), "{:?}", summary.notes);

    // All checkpoints gone: from the beginning, to the same end. A finished run called again changes nothing.
    for (_, path) in herd_train::checkpoint::list(&dir.path().join("pretrain/checkpoints")).unwrap() {
        fs::remove_dir_all(path).unwrap();
    }
    pretrain(&settings(), dir.path(), &Context::quiet()).unwrap();
    assert!(final_bytes(dir.path()) == straight().1);
    pretrain(&settings(), dir.path(), &Context::quiet()).unwrap();
    assert!(final_bytes(dir.path()) == straight().1);
    assert_eq!(losses(dir.path()), straight().2);
}

#[test]
fn a_stop_during_an_evaluation_keeps_the_step_and_evaluates_later() {
    let mut s = settings();
    s.held_out.every_steps = 1;
    let dir = tempfile::tempdir().unwrap();
    let ctx = Context::quiet();
    ctx.stop.request();
    for _ in 0..2 {
        assert!(matches!(pretrain(&s, dir.path(), &ctx), Err(Error::Interrupted(_))));
        let saved = herd_train::checkpoint::list(&dir.path().join("pretrain/checkpoints")).unwrap();
        assert_eq!((saved.len(), saved[0].0), (1, 1), "the first step is saved, no second is begun");
    }
    let summary = pretrain(&s, dir.path(), &Context::quiet()).unwrap();
    assert!(final_bytes(dir.path()) == straight().1, "looking more often changes no bit");
    let steps: Vec<u64> = summary.held_out.iter().map(|point| point.step).collect();
    assert_eq!(steps, (1..=26).collect::<Vec<_>>());
}

#[test]
fn the_summary_tells_what_happened() {
    let (summary, ..) = straight();
    let names: Vec<_> = summary.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["initial", "long context 192", "long context 256", "annealing"]);
    // 4 steps of 256 tokens pass 1,000; the other 8 take 512.
    assert_eq!((summary.phases[0].steps, summary.phases[0].tokens), (12, 4 * 256 + 8 * 512));
    assert_eq!(summary.tokens, summary.phases.iter().map(|phase| phase.tokens).sum::<u64>());
    assert_eq!(summary.steps, summary.phases.iter().map(|phase| phase.steps).sum::<u64>());
    // So small a model finds no needle: the stages end by their budget and say so.
    for stage in &summary.long_context {
        assert!(
            !stage.passed && !stage.needle_found && stage.steps == 4 && stage.recall.cases == 2,
            "{stage:?}"
        );
    }
    assert_eq!(summary.notes.iter().filter(|note| note.contains("its 4 steps were spent")).count(), 2);
    assert_eq!(summary.notes.iter().filter(|note| note.contains("mathematics documents")).count(), 1);
    assert_eq!(summary.averaging.steps, [24, 25, 26]);
    assert!((summary.averaging.loss_final - summary.averaging.loss_last).abs() < 0.1);
    let lr: Vec<f64> = summary.curve.iter().map(|point| point.learning_rate).collect();
    assert!(lr[0] < lr[2] && lr[2] > lr[11] && lr[25] < lr[20], "{lr:?}");
    assert!(summary.curve[25].loss < summary.curve[0].loss - 0.5);
    let domains: Vec<_> = summary.domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(domains, ["code", "general"]);
    let taken: u64 = summary.domains.iter().map(|domain| domain.tokens).sum();
    assert!(taken < summary.tokens && taken > summary.tokens / 2, "the rest are needle sequences");
    assert!(summary.held_out.iter().all(|point| point.losses.len() == 3));
}

#[test]
fn the_final_model_is_the_average_of_its_snapshots_and_opens_with_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let summary = pretrain(&settings(), dir.path(), &Context::quiet()).unwrap();
    let base = dir.path().join("models/base");
    let (llama, params) = weights::load(&base).unwrap();
    assert_eq!(params.count() as u64, summary.parameters);
    let snapshots: Vec<PathBuf> = summary
        .averaging
        .steps
        .iter()
        .map(|s| dir.path().join(format!("pretrain/snapshots/step-{s:010}")))
        .collect();
    let each: Vec<_> = snapshots.iter().map(|path| weights::load(path).unwrap().1).collect();
    for i in (0..params.count()).step_by(997) {
        let mean = each.iter().map(|p| f64::from(p.flat()[i])).sum::<f64>() / 3.0;
        assert_eq!(params.flat()[i], mean as f32);
    }
    assert_ne!(each[0].flat(), each[2].flat());
    let (_, again) = average(&snapshots).unwrap();
    assert_eq!(again.flat(), params.flat());
    assert_eq!(llama.config.vocab_size, herd_tokenizer::Tokenizer::load(&base).unwrap().vocab_size());
    assert!(average(&[]).is_err());
}

#[test]
fn a_model_that_is_large_enough_learns_its_corpus_by_heart() {
    let mut s = settings();
    s.initial.steps = 300;
    s.initial.peak_learning_rate = 1e-2;
    s.initial.final_learning_rate = 1e-3;
    s.initial.warmup_steps = 10;
    s.initial.needle_share = 0.0;
    // One domain only, of which a step sees a large part.
    s.initial.mix = herd_train::Mix::fixed(&[("general", 1.0)]);
    s.initial.batch = BatchGrowth::fixed(2048, 128);
    s.long_context.contexts.clear();
    s.annealing.steps = 0;
    let dir = tempfile::tempdir().unwrap();
    let summary = pretrain(&s, dir.path(), &Context::quiet()).unwrap();
    let (first, last) = (summary.curve[0].loss, summary.curve[299].loss);
    println!("loss {first:.3} -> {last:.3} over {:?}", summary.domains);
    assert!(
        (first - (model().vocab_size as f64).ln()).abs() < 0.2,
        "an untrained model guesses evenly: {first}"
    );
    assert!(last < 2.0, "{first} -> {last}");
    assert!(
        summary.averaging.steps.is_empty() && summary.averaging.loss_final == summary.averaging.loss_last
    );
}

#[test]
fn a_loss_that_is_not_a_number_stops_or_is_skipped_as_the_policy_says() {
    let (tokenizer, shards) = data();
    let broken = || LlamaConfig { initializer_range: 1e30, ..model() };
    let dir = tempfile::tempdir().unwrap();
    let attempt = |s: &Settings, name: &str| {
        let out = dir.path().join(name);
        run(s, broken(), shards, tokenizer, &out, &out.join("base"), &Context::quiet()).unwrap_err()
    };
    let Error::NonFinite { step, skipped, report, .. } = attempt(&settings(), "stop") else { panic!() };
    assert_eq!((step, skipped), (1, 1));
    let listed: serde_json::Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
    let documents = listed["documents"].as_array().unwrap();
    let tokens: u64 = documents.iter().map(|d| d["tokens"].as_u64().unwrap()).sum();
    assert_eq!(tokens, 256, "the micro-batch in full: {listed}");
    assert!(documents.iter().all(|d| d["document"].is_u64() && d["domain"].is_string()));

    let mut skip = settings();
    skip.non_finite.policy = NonFinitePolicy::Skip;
    skip.non_finite.at_most = 3;
    let Error::NonFinite { step, skipped, .. } = attempt(&skip, "skip") else { panic!() };
    assert_eq!((step, skipped), (4, 4), "three are skipped, the fourth is too many");
}

/// The optimizer inside the backward pass, if asked for; nothing is clipped either way.
fn settings_unclipped(in_backward: bool) -> Settings {
    let mut s = Settings { micro_batch_tokens: 768, ..settings() };
    (s.optimizer.clip, s.optimizer.in_backward) = (0.0, in_backward);
    s
}

#[test]
fn the_optimizer_inside_the_backward_pass_gives_the_same_bits() {
    let outcomes = [false, true].map(|in_backward| {
        let dir = tempfile::tempdir().unwrap();
        pretrain(&settings_unclipped(in_backward), dir.path(), &Context::quiet()).unwrap();
        let norm = |line: &serde_json::Map<String, serde_json::Value>| line.get("train/grad_norm")?.as_f64();
        let norms: Vec<f64> =
            metrics::read(&dir.path().join("pretrain")).unwrap().iter().filter_map(norm).collect();
        (losses(dir.path()), norms, final_bytes(dir.path()))
    });
    assert_eq!(outcomes[0].0, outcomes[1].0, "losses");
    assert!(outcomes[0].1.len() > 20 && outcomes[0].1 == outcomes[1].1, "norms: {:?}", outcomes[1].1);
    assert!(outcomes[0].2 == outcomes[1].2, "final weights");
}

#[test]
fn a_gradient_that_is_not_finite_is_found_too_late_and_the_last_checkpoint_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = dir.path().join("pretrain/checkpoints");
    let mut settings = settings_unclipped(true);
    settings.checkpoint.every_steps = 1;
    // One that was stopped after a few steps, with weights whose loss is finite and whose gradient overflows.
    let ctx = Context::quiet();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| pretrain(&settings, dir.path(), &ctx));
        while !running.is_finished() {
            if checkpoint::list(&checkpoints).is_ok_and(|list| !list.is_empty()) {
                ctx.stop.request();
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(matches!(running.join().unwrap(), Err(Error::Interrupted(_))));
    });
    let llama = Llama::new(model());
    let mut params = llama.params();
    let mut optimizer = AdamW::new(&params, settings.optimizer);
    let state =
        checkpoint::latest(&checkpoints, &mut params, &mut optimizer, |w| panic!("{w}")).unwrap().unwrap();
    let layer = llama.layers[1];
    for (id, factor) in [(layer.w_gate_up, 1e19f32), (layer.w_down, 1e-36), (llama.head(), 1e7)] {
        params.value_mut(id).iter_mut().for_each(|value| *value *= factor);
    }
    checkpoint::save(&checkpoints, 3, state.step, &params, &optimizer, state.extra).unwrap();
    let kept = || {
        let (_, newest) = checkpoint::list(&checkpoints).unwrap().remove(0);
        (newest.clone(), fs::read(newest.join("parameters.safetensors")).unwrap())
    };
    let before = kept();

    let error = pretrain(&settings, dir.path(), &Context::quiet()).unwrap_err();
    let Error::Applied { step, report, .. } = &error else { panic!("{error}") };
    assert_eq!(*step, state.step + 1);
    assert!(report.exists() && error.to_string().contains("Set in_backward = false"), "{error}");
    assert!(kept() == before, "no checkpoint of the lost weights");
    // As the error says, the ordinary way goes on from there and applies no such step.
    let error = pretrain(&settings_unclipped(false), dir.path(), &Context::quiet()).unwrap_err();
    assert!(matches!(&error, Error::NonFinite { step, .. } if *step == state.step + 1), "{error}");
}

#[test]
fn a_context_beyond_the_models_is_refused_before_anything_is_written() {
    let mut s = settings();
    s.long_context.contexts = vec![256, 512];
    s.long_context.batch_tokens = 1024;
    s.micro_batch_tokens = 512;
    s.annealing.batch_tokens = 512;
    let dir = tempfile::tempdir().unwrap();
    let error = pretrain(&s, dir.path(), &Context::quiet()).unwrap_err().to_string();
    assert!(
        error.contains("long_context.contexts") && error.contains("512") && error.contains("256"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

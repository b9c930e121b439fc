//! A whole round on a tiny random model and a part of the quickstart's data: what must rise rises, a killed round ends
//! with the same bits, and wrong input is refused with its place.

use herd_align::records::AlignmentData;
use herd_align::{Optimization, Settings, Summary, run};
use herd_model::{Llama, weights};
use herd_run::Context;
use herd_tokenizer::chat::TemplateKind;
use herd_tokenizer::{Tokenizer, train};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// A folder with a base model, its tokenizer and alignment data.
struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart/alignment");
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let sizes = [
            ("instructions.jsonl", 160),
            ("instructions.held_out.jsonl", 30),
            ("preferences.jsonl", 240),
            ("preferences.held_out.jsonl", 60),
        ];
        for (name, lines) in sizes {
            let text = fs::read_to_string(quickstart.join(name)).unwrap();
            // Short records, so that the test is quick, and defects that a tiny random model can learn to see.
            let plain = |line: &&str| {
                !line.contains("defect") || line.contains("rude") || line.contains("repetition")
            };
            let short = text.lines().filter(|line| line.len() < 420).filter(plain).take(lines);
            fs::write(data.join(name), short.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        }
        let loaded = AlignmentData::load(&data).unwrap();
        let texts: Vec<&str> = loaded
            .instructions
            .records
            .iter()
            .flat_map(|(_, i)| &i.messages)
            .map(|m| m.content.as_str())
            .collect();
        let settings = train::Settings {
            vocab_size: 700,
            chat_template: TemplateKind::Llama3,
            ..train::Settings::default()
        };
        let tokenizer = train::train(&texts, &settings).unwrap();
        fs::create_dir(dir.path().join("tokenizer")).unwrap();
        tokenizer.save(dir.path().join("tokenizer")).unwrap();
        let shape = herd_model::Settings {
            model_dimension: 32,
            ffn_dimension: 64,
            layers: 2,
            attention_heads: 4,
            key_value_heads: 2,
            max_context: 256,
            ..herd_model::Settings::default()
        };
        let specials = tokenizer.specials();
        let llama =
            Llama::new(shape.config(tokenizer.vocab_size(), specials.bos, vec![specials.end_of_text]));
        let mut params = llama.params();
        params.initialize(5);
        weights::save(&dir.path().join("base"), &llama, &params).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs into `out` and `models` of the given name.
    fn run(&self, settings: &Settings, name: &str, ctx: &Context) -> Result<Summary, herd_align::Error> {
        let (base, tokenizer, data) = (self.path("base"), self.path("tokenizer"), self.path("data"));
        let out = self.path(name);
        run(settings, &base, &tokenizer, &data, &out, &out.join("models"), ctx)
    }

    fn weights(&self, name: &str, model: &str) -> Vec<u8> {
        fs::read(self.path(name).join("models").join(model).join("model.safetensors")).unwrap()
    }
}

fn settings() -> Settings {
    let train = |rate: f64, epochs: f64| Optimization {
        learning_rates: vec![rate],
        epochs,
        batch_tokens: 1024,
        checkpoint_every: 4,
        ..Optimization::default()
    };
    let mut settings = Settings { max_tokens: 256, ..Settings::default() };
    settings.reward.train = train(3e-3, 4.0);
    settings.rejection.samples = 3;
    settings.rejection.prompts = 70;
    settings.rejection.max_new_tokens = 12;
    settings.sft.train = train(5e-3, 3.0);
    settings.sft.train.average_last = 2;
    settings.sft.repeat.insert("chat".into(), 3);
    settings.dpo.train = train(1e-3, 2.0);
    settings.samples.truncate(2);
    settings
}

#[test]
fn a_round_raises_what_it_should_raise() {
    let world = World::new();
    let summary = world.run(&settings(), "out", &Context::quiet()).unwrap();

    assert!(summary.reward.accuracy.wilson.low > 0.5, "{:?}", summary.reward.accuracy);
    assert!(summary.sft.held_out_loss < summary.sft.base_held_out_loss - 1.0, "{:?}", summary.sft);
    assert!(summary.dpo.held_out_margin > 0.05, "{:?}", summary.dpo);
    let fall = summary.dpo.rejected_logprob_before - summary.dpo.rejected_logprob;
    let chosen = summary.dpo.chosen_logprob_before - summary.dpo.chosen_logprob;
    assert!(fall > chosen, "the rejected responses fell by {fall}, the chosen by {chosen}");
    assert!(summary.sampling.best_reward > summary.sampling.mean_reward, "{:?}", summary.sampling);
    assert_eq!(summary.sft.sampled, summary.sampling.kept);
    assert_eq!(summary.samples.len(), 2);

    // The first step of DPO starts from the reference: no margin yet.
    let first = &metrics(&world.path("out/1-dpo"))[0];
    assert!(first["dpo/held_out_margin"].as_f64().unwrap().abs() < 1e-6, "{first}");

    let config: Value = herd_run::atomic::read_json(&world.path("out/models/reward/config.json")).unwrap();
    assert_eq!(
        (&config["architectures"][0], &config["num_labels"]),
        (&"LlamaForSequenceClassification".into(), &1.into())
    );
    for model in ["reward", "sft", "chat"] {
        let folder = world.path("out/models").join(model);
        weights::load(&folder).unwrap();
        Tokenizer::load(&folder).unwrap();
    }
    let specials = *Tokenizer::load(world.path("tokenizer")).unwrap().specials();
    let (chat, _) = weights::load(&world.path("out/models/chat")).unwrap();
    assert!(chat.config.eos_token_ids.contains(&specials.eot), "a chat model ends its turn");
}

fn metrics(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Short enough to be run three times.
fn brief() -> Settings {
    let mut settings = settings();
    for train in [&mut settings.reward.train, &mut settings.sft.train, &mut settings.dpo.train] {
        train.epochs = 1.0;
        train.checkpoint_every = 3;
    }
    settings.reward.train.learning_rates.push(1e-3);
    settings.samples.clear();
    settings
}

/// Not a test by itself: the process that [`a_killed_round_ends_with_the_same_bits`] kills.
#[test]
fn process_to_be_killed() {
    let Ok(dir) = std::env::var("HERD_ALIGN_WORLD") else { return };
    let at = |name: &str| Path::new(&dir).join(name);
    let out = at("killed");
    let models = out.join("models");
    run(&brief(), &at("base"), &at("tokenizer"), &at("data"), &out, &models, &Context::quiet()).unwrap();
}

#[test]
fn a_killed_round_ends_with_the_same_bits() {
    let world = World::new();
    let steps = |part: &str| -> usize {
        let path = world.path("killed").join(part).join("metrics.jsonl");
        fs::read_to_string(path).map_or(0, |text| text.lines().count())
    };
    // In the second run of the reward model, between two parts of rejection sampling, and in DPO past a checkpoint.
    let places: [&dyn Fn() -> bool; 3] = [
        &|| steps("1-reward/run-2") >= 5,
        &|| world.path("killed/1-rejection/parts/00000.jsonl").exists(),
        &|| steps("1-dpo") >= 6,
    ];
    for reached in places {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process_to_be_killed"])
            .env("HERD_ALIGN_WORLD", world.dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !reached() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(!world.path("killed/summary.json").exists(), "it was killed before the end");
    world.run(&brief(), "killed", &Context::quiet()).unwrap();
    // The other run is not interrupted, and on one thread.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    one.install(|| world.run(&brief(), "whole", &Context::quiet())).unwrap();
    for model in ["reward", "sft", "chat"] {
        assert!(world.weights("killed", model) == world.weights("whole", model), "{model} differs");
    }
    let read = |name: &str| fs::read(world.path(name)).unwrap();
    for file in ["summary.json", "1-rejection/samples.jsonl"] {
        assert!(read(&format!("killed/{file}")) == read(&format!("whole/{file}")), "{file} differs");
    }
    // Nothing is done again.
    let before = world.weights("whole", "chat");
    let metrics_before = read("whole/1-dpo/metrics.jsonl");
    world.run(&brief(), "whole", &Context::quiet()).unwrap();
    assert!(world.weights("whole", "chat") == before && read("whole/1-dpo/metrics.jsonl") == metrics_before);
}

#[test]
fn wrong_input_is_refused_with_its_place_before_anything_is_written() {
    let world = World::new();
    let refused = |settings: &Settings| {
        let message = world.run(settings, "refused", &Context::quiet()).unwrap_err().to_string();
        assert!(!world.path("refused").exists(), "{message}");
        message
    };
    let short = Settings { max_tokens: 40, ..settings() };
    let message = refused(&short);
    assert!(message.contains(".jsonl:") && message.contains("the limit `max_tokens` is 40"), "{message}");
    let long = Settings { max_tokens: 512, ..settings() };
    assert!(refused(&long).contains("exceeds the model's context of 256"));

    let file = world.path("data/preferences.jsonl");
    let good = fs::read_to_string(&file).unwrap();
    let bad = good.replacen("\"strength\": \"", "\"strength\": \"very_", 1);
    let line = 1 + bad.lines().position(|l| l.contains("very_")).unwrap();
    fs::write(&file, bad).unwrap();
    let message = refused(&settings());
    assert!(
        message.contains(&format!("preferences.jsonl:{line}: column")) && message.contains("`better`"),
        "{message}"
    );

    let weak = good
        .replace("\"significantly_better\"", "\"slightly_better\"")
        .replace("\"better\"", "\"slightly_better\"");
    fs::write(&file, weak).unwrap();
    assert!(refused(&settings()).contains("no pair of round 1 that is `better`"));

    fs::remove_file(&file).unwrap();
    assert!(refused(&settings()).contains("preferences.jsonl"));
}

#[test]
fn a_second_round_continues_from_the_first_and_uses_its_own_preferences() {
    let world = World::new();
    // Every third preference was collected in round 2.
    for name in ["data/preferences.jsonl", "data/preferences.held_out.jsonl"] {
        let text = fs::read_to_string(world.path(name)).unwrap();
        let round = |(i, line): (usize, &str)| match i % 3 {
            2 => format!("{}, \"round\": 2}}\n", line.trim_end_matches('}')),
            _ => format!("{line}\n"),
        };
        fs::write(world.path(name), text.lines().enumerate().map(round).collect::<String>()).unwrap();
    }
    let summary = world.run(&Settings { rounds: 2, ..brief() }, "out", &Context::quiet()).unwrap();
    let [first, second] = summary.rounds.as_slice() else { panic!("two rounds") };
    assert!(first.reward.prompts < second.reward.prompts, "the reward model uses all rounds so far");
    assert_eq!((first.dpo.collected_in_round, second.dpo.collected_in_round), (1, 2));
    assert!(second.dpo.pairs < first.dpo.pairs, "DPO uses the latest batch alone");
    assert_eq!(summary.dpo, second.dpo);
    assert!(!world.path("out/2-policy").exists(), "the second round samples from the first one's chat model");
}

//! Classifiers against the original fastText, and trained by Herd.

use herd_data::classifier::{Classifier, Labelled, Settings, read_labelled, train};
use herd_data::documents::{self, Document, Domain};
use herd_data::settings::ClassifierSettings;
use herd_data::{language, rejects};
use herd_run::Context;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn rows(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn models_of_fasttext_give_its_probabilities() {
    for loss in ["softmax", "hierarchical", "one_versus_all"] {
        let model = Classifier::load(&golden(&format!("classifier.{loss}.bin"))).unwrap();
        let rows = rows(&format!("classifier.{loss}.jsonl"));
        assert!(rows.len() > 10);
        for row in rows {
            let text = row["text"].as_str().unwrap();
            for (label, score) in model.labels().zip(model.probabilities(text)) {
                let expected = row["probabilities"][label].as_f64().unwrap();
                // Its one-versus-all reads the sigmoid off a table of 512 values.
                let tolerance = if loss == "one_versus_all" { 4e-3 } else { 3e-4 };
                assert!(
                    (score as f64 - expected).abs() < tolerance,
                    "{loss} {label} {score} {expected} {text}"
                );
            }
        }
    }
}

#[test]
fn languages_are_those_of_fasttext() {
    let rows = rows("languages.jsonl");
    let mut languages = std::collections::BTreeSet::new();
    for row in &rows {
        let text = row["text"].as_str().unwrap();
        let Some((found, score)) = language::identify(text) else { panic!("no language for {row}") };
        assert_eq!(found, row["language"], "{text}");
        let expected = row["score"].as_f64().unwrap();
        assert!((score as f64 - expected).abs() < 2e-3, "{score} {expected} {text}");
        languages.insert(found);
    }
    assert!(rows.len() >= 100 && languages.len() >= 10, "{} {languages:?}", rows.len());
}

/// Sentences of two kinds that share most of their words.
fn examples(count: usize) -> Vec<Labelled> {
    let subjects = ["the server", "a river", "the old town", "this function", "the committee", "a comet"];
    let good = ["was described by historians in", "is documented in the annals of", "has been studied since"];
    let bad = ["is on sale now click", "best price guaranteed order", "free shipping subscribe"];
    (0..count)
        .map(|n| {
            let is_good = n % 3 == 0;
            let middle = if is_good { good[n / 3 % 3] } else { bad[n / 3 % 3] };
            let text = format!("{} {middle} {} page {}", subjects[n % 6], subjects[n / 7 % 6], n % 50);
            Labelled { text, label: if is_good { "good" } else { "bad" }.into() }
        })
        .collect()
}

fn small() -> Settings {
    Settings { dimension: 8, epochs: 4, buckets: 2000, max_subword: 3, min_subword: 2, ..Settings::default() }
}

#[test]
fn training_learns_and_does_not_depend_on_the_number_of_threads() {
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train(&examples(900), &small(), &Context::quiet()).unwrap())
    };
    let (one, three) = (with(1), with(3));
    assert!(one.classifier == three.classifier, "same bits");
    assert_eq!(one.evaluation, three.evaluation);
    let evaluation = one.evaluation.unwrap();
    assert!(evaluation.texts > 40, "{}", evaluation.texts);
    let good = evaluation.labels.iter().find(|l| l.label == "good").unwrap();
    assert!(good.auc.value > 0.99 && good.precision.value > 0.95 && good.recall.value > 0.95, "{good:?}");
    assert!(good.auc.low <= good.auc.value && good.auc.value <= good.auc.high);
    assert!(one.loss < 0.2, "{}", one.loss);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.bin");
    one.classifier.save(&path).unwrap();
    assert!(Classifier::load(&path).unwrap() == one.classifier);
}

#[test]
fn labels_without_signal_are_not_learned() {
    let mut examples = examples(900);
    let mut state = 1u64;
    for example in &mut examples {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        example.label = if state >> 63 == 0 { "good".into() } else { "bad".into() };
    }
    let settings = Settings { held_out: 0.4, ..small() };
    let evaluation = train(&examples, &settings, &Context::quiet()).unwrap().evaluation.unwrap();
    let auc = evaluation.labels[0].auc;
    assert!(auc.low < 0.5 && 0.5 < auc.high, "{auc:?}");
}

#[test]
fn labelled_files_and_what_is_wrong_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = |text: &str| {
        let path = dir.path().join("labels.jsonl");
        std::fs::write(&path, text).unwrap();
        read_labelled(&path, "text", "label")
    };
    let read = file(
        "{\"text\":\"a b\",\"label\":\"x\"}\n\n{\"text\":\"c\",\"label\":true,\"n\":1}\n{\"text\":\"no\"}\n",
    );
    assert_eq!(
        read.unwrap(),
        [("a b", "x"), ("c", "true")].map(|(t, l)| Labelled { text: t.into(), label: l.into() })
    );
    let message = file("{\"text\":\"a\",\"label\":\"x\"}\n{\"text\":").unwrap_err().to_string();
    assert!(
        message.contains("labels.jsonl") && message.contains("labels.jsonl:2: is no JSON object"),
        "{message}"
    );
    let message = file("{\"txt\":\"a\",\"label\":\"x\"}").unwrap_err().to_string();
    assert!(message.contains("`text`") && message.contains("row 1"), "{message}");
    let one = vec![Labelled { text: "a".into(), label: "x".into() }; 5];
    let settings = Settings { held_out: 0.0, ..small() };
    let message = train(&one, &settings, &Context::quiet()).err().unwrap().to_string();
    assert!(message.contains("at least two"), "{message}");

    let broken = dir.path().join("broken.bin");
    let whole = std::fs::read(golden("classifier.softmax.bin")).unwrap();
    for length in [0, 3, 20, 70, 200, whole.len() - 1] {
        std::fs::write(&broken, &whole[..length]).unwrap();
        let message = Classifier::load(&broken).unwrap_err().to_string();
        assert!(message.contains("broken.bin") && message.contains("train-classifier"), "{message}");
    }
    for at in 0..100 {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&broken, &damaged).unwrap();
        let _ = Classifier::load(&broken); // an error or another model, never a panic
    }
}

/// A crawl of pages in a WARC file, curated with a classifier.
#[test]
fn the_stage_keeps_scores_as_columns_and_drops_below_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let quickstart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/quickstart");
    let plain = herd_data::Settings {
        input: vec![quickstart.join("crawl/quickstart-00003.warc.gz").display().to_string()],
        ..Default::default()
    };
    let curate = |settings: &herd_data::Settings, name: &str| {
        let out = dir.path().join(name);
        herd_data::run(settings, &out, &herd_data::Resources::default(), &Context::quiet()).unwrap();
        let all: Vec<Document> =
            documents::read(&out.join("documents.parquet")).unwrap().collect::<Result<_, _>>().unwrap();
        (all, out)
    };
    let (before, _) = curate(&plain, "before");
    // "Code or not" as the rules of the program say, learned from words alone.
    let examples: Vec<Labelled> = before
        .iter()
        .map(|d| {
            let label = if d.domain == Domain::Code { "code" } else { "other" };
            Labelled { text: d.text.clone(), label: label.into() }
        })
        .collect();
    let settings = Settings { dimension: 8, buckets: 5000, held_out: 0.0, ..Settings::default() };
    let model = dir.path().join("code.bin");
    train(&examples, &settings, &Context::quiet()).unwrap().classifier.save(&model).unwrap();

    let scorer = |name: &str, label: &str| ClassifierSettings {
        name: name.into(),
        model: model.clone(),
        label: label.into(),
        min_score: None,
        max_score: None,
        languages: vec!["en".into()],
        domain: None,
        domain_score: 0.5,
    };
    let mut dropping = scorer("is_code", "code");
    dropping.max_score = Some(0.8);
    let settings =
        herd_data::Settings { classifiers: vec![dropping, scorer("is_other", "other")], ..plain.clone() };
    let (after, out) = curate(&settings, "after");
    assert!(
        after.iter().all(|d| d.values.contains_key("is_code") && d.values.contains_key("repeated_ngrams"))
    );
    let english: Vec<&Document> = after.iter().filter(|d| d.language == "en").collect();
    assert!(english.iter().all(|d| d.values["is_code"] <= 0.8));
    assert!(english.iter().all(|d| (d.values["is_code"] + d.values["is_other"] - 1.0).abs() < 1e-4));
    assert!(after.iter().any(|d| d.language != "en") && english.len() < after.len());
    assert!(after.iter().filter(|d| d.language != "en").all(|d| d.values["is_code"].is_nan()));
    let rejects: Vec<_> =
        rejects::read(&out.join("rejects.parquet")).unwrap().collect::<Result<_, _>>().unwrap();
    let dropped: Vec<_> = rejects.iter().filter(|r| r.reason.rule == "is_code").collect();
    assert!(!dropped.is_empty());
    assert!(dropped.iter().all(|r| r.reason.value > 0.8 && r.reason.threshold == 0.8));

    let mut wrong = settings.clone();
    wrong.classifiers[0].label = "kode".into();
    let message = herd_data::run(
        &wrong,
        &dir.path().join("wrong"),
        &herd_data::Resources::default(),
        &Context::quiet(),
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("kode") && message.contains("other, code"), "{message}");
}

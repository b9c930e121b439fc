//! The report of a run folder with all stages, with none, and with broken files.

use herd_data::filters::Reason;
use herd_data::rejects::Reject;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/run")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

#[test]
fn every_section_is_drawn_and_nothing_is_loaded() {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report.html");
    herd_report::write(&fixture(), &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    for title in [
        "What remains after each step",
        "Training tokens by domain",
        "Loss",
        "Learning rate",
        "Throughput",
        "Compute",
        "Gradient norm",
        "Long context: the two gates",
        "Bits per byte on held-out documents",
        "Needle in a haystack",
        "Needle, likeliest of ten",
        "Multiple choice",
        "Instructions answered exactly",
        "Instructions, overlap of words",
        "Reward model: accuracy",
        "Supervised fine-tuning: loss",
        "DPO: margin",
        "DPO: log-probabilities",
        "Before and after",
    ] {
        assert!(
            html.contains(&format!("<b>{title}</b>")) || html.contains(&format!("{title}</h")),
            "{title}"
        );
    }
    assert!(!html.contains("has not run"), "every stage of the fixture has run");
    for foreign in ["http-equiv=\"refresh", "<script", "<link", "<img", "src=", "url(", "@import"] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    assert!(html.contains("&lt;script&gt;alert"), "an answer of the model is text, not markup");
    assert!(!html.contains("NaN") && !html.contains("inf\"") && html.len() < 1_500_000, "{}", html.len());
}

#[test]
fn dropped_documents_are_shown_with_rule_and_measure() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture(), dir.path());
    let path = dir.path().join("data/rejects.parquet");
    let mut writer = herd_data::rejects::Writer::new(fs::File::create(&path).unwrap(), &path).unwrap();
    for i in 0..5 {
        let reason = Reason::new("kl_divergence", 7.25, 5.5, "<b>0x00 0x01</b> 0x02");
        writer
            .push(Reject { url: format!("https://log.example/{i}?a=1&b=2"), reason, cluster: None })
            .unwrap();
    }
    writer.finish().unwrap();
    let out = dir.path().join("report.html");
    herd_report::write(dir.path(), &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    assert!(html.contains("<b>kl_divergence</b> measured 7.25, bound 5.5"));
    assert!(html.contains("&lt;b&gt;0x00") && html.contains("log.example/2?a=1&amp;b=2"));
    assert!(!html.contains("log.example/3"), "a few of each rule are enough");
    // Cut short: named, and everything else is drawn.
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    herd_report::write(dir.path(), &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    assert!(html.contains("rejects.parquet") && html.contains("What remains after each step"));
}

#[test]
fn a_stage_that_has_not_run_is_said_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("data")).unwrap();
    let out = dir.path().join("report.html");
    herd_report::write(dir.path(), &out).unwrap();
    let html = fs::read_to_string(&out).unwrap();
    assert_eq!(html.matches("has not run").count(), 7, "data to samples, and the recipe");
    assert!(html.contains("herd pretrain"));
}

#[test]
fn any_missing_file_leaves_the_rest() {
    let parts = ["manifest.json", "data", "tokenizer", "shards", "pretrain", "align", "eval", "models"];
    for part in parts {
        let dir = tempfile::tempdir().unwrap();
        copy(&fixture(), dir.path());
        let path = dir.path().join(part);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap()
        } else {
            fs::remove_file(&path).unwrap()
        }
        let out = dir.path().join("report.html");
        herd_report::write(dir.path(), &out).unwrap();
        let html = fs::read_to_string(&out).unwrap();
        assert!(html.contains("<svg") && html.ends_with("</html>\n"), "{part}");
        herd_report::text_summary(dir.path()).unwrap();
    }
}

#[test]
fn broken_files_are_named_and_left_out() {
    let files = [
        "manifest.json",
        "data/funnel.json",
        "pretrain/metrics.jsonl",
        "eval/base/summary.json",
        "align/summary.json",
    ];
    // Cut short, not JSON, and JSON of another shape.
    for content in [
        "{\"steps\": [{\"na",
        "\u{1}\u{2}",
        "[[1, null, {\"x\": \"y\"}], 5]",
        "{\"steps\": 5, \"models\": [], \"stages\": \"x\"}",
    ] {
        for file in files {
            let dir = tempfile::tempdir().unwrap();
            copy(&fixture(), dir.path());
            fs::write(dir.path().join(file), content).unwrap();
            let out = dir.path().join("report.html");
            herd_report::write(dir.path(), &out).unwrap();
            let html = fs::read_to_string(&out).unwrap();
            let name = Path::new(file).file_name().unwrap().to_str().unwrap();
            let is_json = serde_json::from_str::<serde_json::Value>(content).is_ok();
            let half_line = file.ends_with("jsonl");
            assert!(is_json || half_line || html.contains(&format!("{name}: ")), "{file} {content}");
        }
    }
}

/// Replaces about every `rarity`-th value of a JSON tree by something unexpected.
fn spoil(value: &mut Value, draws: &mut u64, rarity: u64) {
    // A linear congruential generator (Knuth): spread well enough to choose values.
    *draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let draw = *draws >> 33;
    if draw.is_multiple_of(rarity) {
        let odd = [
            json!(null),
            json!(-1.7e308),
            json!(1.7e308),
            json!(0),
            json!(-3),
            json!(1e-300),
            json!("<script>\u{1b}[31m"),
            json!([]),
            json!({"score": 2}),
            json!(true),
        ];
        *value = odd[(draw / rarity) as usize % odd.len()].clone();
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| spoil(item, draws, rarity)),
        Value::Object(entries) => entries.values_mut().for_each(|item| spoil(item, draws, rarity)),
        _ => {}
    }
}

fn spoil_folder(folder: &Path, draws: &mut u64, rarity: u64) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            spoil_folder(&path, draws, rarity);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let spoiled: Vec<String> = match path.extension().and_then(|extension| extension.to_str()) {
            Some("jsonl") => text.lines().map(str::to_string).collect(),
            _ => vec![text],
        };
        let spoiled = spoiled.iter().map(|text| {
            let mut value: Value = serde_json::from_str(text).unwrap();
            spoil(&mut value, draws, rarity);
            value.to_string()
        });
        fs::write(&path, spoiled.collect::<Vec<_>>().join("\n") + "\n").unwrap();
    }
}

#[test]
fn no_value_in_any_place_breaks_the_page() {
    let mut draws = 20_240_731;
    for round in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        copy(&fixture(), dir.path());
        spoil_folder(dir.path(), &mut draws, [4, 12, 60, 300][round % 4]);
        let out = dir.path().join("report.html");
        herd_report::write(dir.path(), &out).unwrap();
        let html = fs::read_to_string(&out).unwrap();
        let numbers = !html.contains("NaN") && !html.contains("\"inf") && !html.contains("-inf");
        assert!(numbers && !html.contains("<script") && html.ends_with("</html>\n"), "round {round}");
        assert!(html.len() < 3_000_000, "round {round}: {} bytes", html.len());
        let text = herd_report::text_summary(dir.path()).unwrap();
        assert!(!text.contains('\u{1b}'));
    }
}

#[test]
fn a_folder_that_is_no_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = herd_report::write(dir.path(), &dir.path().join("r.html")).unwrap_err().to_string();
    assert!(error.contains("not a run folder") && error.contains("herd run"), "{error}");
    assert!(!dir.path().join("r.html").exists());
}

#[test]
fn the_terminal_summary_has_the_numbers_and_a_chat() {
    let text = herd_report::text_summary(&fixture()).unwrap();
    for part in ["1,564", "Bits per byte", "1.553", "bigram", "user", "assistant", "1.727"] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    assert!(!text.contains('\u{1b}'), "no control character reaches the terminal");
}

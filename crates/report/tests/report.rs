//! The report of a run folder with all stages, with none, and with broken files.

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
        "Multiple choice",
        "Instructions answered exactly",
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

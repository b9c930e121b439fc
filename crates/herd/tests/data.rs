//! `herd data` and its subcommands as a user meets them, on a run of the smallest recipe.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn herd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.current_dir(workspace()).args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> String {
    let output = herd(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failure(arguments: &[&str]) -> String {
    let output = herd(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Ends the server with the test, however it ends.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_crawl_is_looked_at_labelled_learned_from_and_curated_again() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let run = run.to_str().unwrap();
    output(&["run", "recipes/smoke.toml", "--out", run, "--quiet"]);

    // Looking.
    let plain = output(&["data", "inspect", run]);
    for heading in ["FUNNEL", "REJECTS", "NEAR-DUPLICATES", "DOCUMENTS"] {
        assert!(plain.contains(heading), "{heading}");
    }
    let page = dir.path().join("page.html");
    output(&["data", "inspect", run, "--html", page.to_str().unwrap()]);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Rejects by rule") && page.contains("too short") && !page.contains("<script"));
    assert!(!page.contains("http-equiv=\"refresh\"") && !page.contains(" src="), "self-contained");
    let short = output(&["data", "inspect", run, "--rule", "too short"]);
    assert!(short.contains("too short") && !short.contains("FUNNEL"));
    assert!(failure(&["data", "inspect", run, "--rule", "nothing"]).contains("too short"));

    let sample =
        ["data", "sample", run, "--where", "language=en", "-n", "5", "--columns", "url,language,text"];
    let rows: Vec<Value> = output(&sample).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(
        rows.len() == 5 && rows.iter().all(|r| r["language"] == "en" && r.as_object().unwrap().len() == 3)
    );
    assert_eq!(output(&sample), output(&sample));
    assert!(failure(&["data", "sample", run, "--where", "lingo=en"]).contains("language"));
    for command in ["sample", "stats"] {
        let message = failure(&["data", command, run, "--where", "language=klingon"]);
        assert!(message.contains("no row of") && message.contains("documents.parquet"), "{message}");
    }

    let stats = output(&["data", "stats", run, "--columns", "repeated_ngrams", "--by", "domain", "--json"]);
    let groups: Vec<Value> = stats.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let total: u64 = groups.iter().map(|g| g["rows"].as_u64().unwrap()).sum();
    let summary: Value =
        serde_json::from_slice(&std::fs::read(Path::new(run).join("data/summary.json")).unwrap()).unwrap();
    assert_eq!(total, summary["documents"].as_u64().unwrap());
    assert!(groups.iter().all(|g| g["numbers"]["max"].as_f64().unwrap() <= 0.5), "the recipe's bound");

    let mix: Value =
        serde_json::from_str(&output(&["data", "mix", "recipes/smoke.toml", "--out", run, "--json"]))
            .unwrap();
    let documents: u64 =
        mix["documents"].as_array().unwrap().iter().map(|p| p["documents"].as_u64().unwrap()).sum();
    assert_eq!(documents, total);
    assert!(
        mix["plan"]
            .as_array()
            .unwrap()
            .iter()
            .any(|row| row["domain"] == "general" && row["epochs"].as_f64().unwrap() > 0.0)
    );

    // Labels by the run's own model, through the server.
    let mut child = herd(&["serve", run, "--port", "0"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let server = Server(child);
    let address = lines
        .find_map(|line| line.split_whitespace().find(|w| w.starts_with("http://")).map(str::to_string))
        .expect("the server says where it listens");
    std::thread::spawn(move || lines.for_each(drop));
    let criteria = dir.path().join("criteria.txt");
    std::fs::write(&criteria, "Say whether the text would help a student.").unwrap();
    let few = dir.path().join("few.jsonl");
    std::fs::write(&few, output(&["data", "sample", run, "-n", "12", "--columns", "text"])).unwrap();
    let labels = dir.path().join("labels.jsonl");
    let url = format!("{}/v1", address.trim_end_matches('/'));
    let labelled = output(&[
        "data",
        "label",
        few.to_str().unwrap(),
        labels.to_str().unwrap(),
        "--criteria",
        criteria.to_str().unwrap(),
        "--labels",
        "good,bad",
        "--url",
        &url,
        "--max-chars",
        "300",
        "--prompt-price",
        "1.0",
        "--json",
    ]);
    drop(server);
    let labelled: Value = serde_json::from_str(&labelled).unwrap();
    assert_eq!((labelled["labelled"].as_u64(), labelled["failed"].as_u64()), (Some(12), Some(0)));
    assert!(labelled["cost"].as_f64().unwrap() > 0.0);
    assert_eq!(std::fs::read_to_string(&labels).unwrap().lines().count(), 12);

    // A classifier, from labels that mean something: the domain.
    let model = dir.path().join("domain.bin");
    let documents = format!("{run}/data/documents.parquet");
    let trained = output(&[
        "data",
        "train-classifier",
        model.to_str().unwrap(),
        &documents,
        "--label-column",
        "domain",
        "--dimension",
        "8",
        "--buckets",
        "20000",
        "--epochs",
        "12",
        "--held-out",
        "0.25",
        "--json",
    ]);
    let trained: Value = serde_json::from_str(&trained).unwrap();
    assert!(trained["evaluation"]["accuracy"]["value"].as_f64().unwrap() > 0.7, "{trained}");

    // A Transformer that begins as the run's model, for English or not.
    let kinds = dir.path().join("kinds.jsonl");
    let rows = output(&["data", "sample", run, "-n", "1000", "--columns", "text,language"]);
    let rows: Vec<String> = rows
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            let label = if row["language"] == "en" { "english" } else { "other" };
            row["label"] = label.into();
            row.to_string()
        })
        .collect();
    std::fs::write(&kinds, rows.join("\n")).unwrap();
    let encoder = dir.path().join("encoder");
    let train = |out: &str, threads: &str| -> Value {
        let text = output(&[
            "data",
            "train-classifier",
            out,
            kinds.to_str().unwrap(),
            "--base",
            run,
            "--max-tokens",
            "128",
            "--epochs",
            "4",
            "--learning-rate",
            "3e-3",
            "--positive",
            "english",
            "--held-out",
            "0.3",
            "--threads",
            threads,
            "--json",
        ]);
        serde_json::from_str(&text).unwrap()
    };
    let trained = train(encoder.to_str().unwrap(), "2");
    let auc = trained["evaluation"]["labels"][0]["auc"]["value"].as_f64().unwrap();
    assert!(trained["evaluation"]["labels"][0]["label"] == "english" && auc > 0.9, "{trained}");
    let again = dir.path().join("encoder1");
    train(again.to_str().unwrap(), "1");
    let weights = |folder: &Path| std::fs::read(folder.join("model.safetensors")).unwrap();
    assert!(weights(&encoder) == weights(&again), "the same bits for any number of threads");
    assert!(!dir.path().join("encoder.work").exists());

    // The same crawl, scored and cleared of a benchmark.
    let benchmark = dir.path().join("benchmark.jsonl");
    std::fs::write(
        &benchmark,
        output(&["data", "sample", run, "-n", "3", "--columns", "text", "--where", "language=en"]),
    )
    .unwrap();
    let recipe = dir.path().join("again.toml");
    let smoke = std::fs::read_to_string(workspace().join("recipes/smoke.toml")).unwrap();
    let more = format!(
        "[data.gopher]\n[data.decontamination]\nmax_share = 0.5\n[[data.decontamination.benchmarks]]\nname = \"own\"\n\
         files = [{benchmark:?}]\nfields = [\"text\"]\n[[data.classifiers]]\nname = \"code_score\"\nmodel = {model:?}\n\
         label = \"code\"\n\
         [[data.classifiers]]\nname = \"encoder_score\"\nmodel = {encoder:?}\nlabel = \"english\"\n\n[tokenizer]"
    );
    std::fs::write(&recipe, smoke.replacen("[tokenizer]", &more, 1)).unwrap();
    let again = dir.path().join("again");
    let (recipe, again) = (recipe.to_str().unwrap(), again.to_str().unwrap());
    output(&["data", recipe, "--out", again, "--quiet"]);
    let stats = output(&["data", "stats", again, "--columns", "code_score", "--by", "domain", "--json"]);
    let mean = |domain: &str| {
        let mut groups = stats.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
        groups.find(|g| g["group"] == domain).unwrap()["numbers"]["mean"].as_f64().unwrap()
    };
    assert!(mean("code") > mean("general") + 0.2, "{stats}");
    let report: Value =
        serde_json::from_slice(&std::fs::read(Path::new(again).join("data/contamination.json")).unwrap())
            .unwrap();
    assert!(report[0]["benchmark"] == "own" && report[0]["examples"].as_u64() == Some(3));
    let rejects = output(&["data", "inspect", again, "--rule", "holds an example of own"]);
    assert!(rejects.contains("decontamination"), "{rejects}");
    std::fs::write(
        recipe,
        std::fs::read_to_string(recipe).unwrap().replace("label = \"code\"", "label = \"kode\""),
    )
    .unwrap();
    assert!(failure(&["data", recipe, "--out", again]).contains("general"), "the labels that there are");
}

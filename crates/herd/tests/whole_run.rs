//! The program as a user meets it: a whole run of the smallest recipe, killed at three places, run twice, and given
//! wrong recipes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn herd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.current_dir(workspace()).args(arguments).stdin(Stdio::null()).env("CUDA_VISIBLE_DEVICES", "");
    command
}

fn run_smoke(out: &Path) -> Output {
    let output = herd(&["run", "recipes/smoke.toml", "--out", out.to_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Whether the manifest says that `stage` has started and not finished.
fn is_running(out: &Path, stage: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(out.join("manifest.json")) else { return false };
    let manifest: serde_json::Value = serde_json::from_str(&text).expect("a manifest is complete or absent");
    manifest["stages"][stage]["state"] == "started"
}

/// Whether the folder, or one below it, has an entry whose name contains `part`.
fn has_entry(folder: &Path, part: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|e| {
        let name = e.file_name().to_string_lossy().into_owned();
        (name.contains(part) && !name.starts_with('.')) || has_entry(&e.path(), part)
    })
}

/// Runs the recipe until `place` is reached, then kills it as `kill -9` does.
fn kill_when(out: &Path, place: impl Fn() -> bool) {
    let mut child: Child = herd(&["run", "recipes/smoke.toml", "--out", out.to_str().unwrap(), "--quiet"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(1200);
    while !place() {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before the place to kill it was reached");
        assert!(Instant::now() < patience, "the place to kill the run was never reached");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run ended by itself; it was to be killed in its midst");
}

/// Every file of the models folder, by name.
fn models(out: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for model in ["base", "reward", "sft", "chat"] {
        for file in ["config.json", "model.safetensors"] {
            let path = out.join("models").join(model).join(file);
            files.push((
                format!("{model}/{file}"),
                std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            ));
        }
    }
    files
}

#[test]
fn a_run_killed_at_three_places_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, killed) = (dir.path().join("whole"), dir.path().join("killed"));
    run_smoke(&whole);

    kill_when(&killed, || is_running(&killed, "data"));
    assert!(!killed.join("tokenizer").exists());
    kill_when(&killed, || is_running(&killed, "pretrain") && has_entry(&killed.join("pretrain"), "step"));
    assert!(!killed.join("models/base/config.json").exists());
    kill_when(&killed, || is_running(&killed, "align") && has_entry(&killed.join("align"), "step"));
    assert!(!killed.join("models/chat/config.json").exists());
    run_smoke(&killed);

    for ((name, a), (_, b)) in models(&whole).iter().zip(&models(&killed)) {
        assert!(
            a == b,
            "{name} differs between the run that was killed three times and the one that was not"
        );
    }

    // A second run finds everything done, and says so.
    let again = run_smoke(&whole);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains("nothing to do"), "{said}");
    let printed = String::from_utf8_lossy(&again.stdout);
    assert!(printed.contains("report.html"), "{printed}");

    // The models that came out can be talked to.
    let mut chat = herd(&["chat", whole.to_str().unwrap(), "--quiet", "--max-tokens", "12"]);
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut chat.stdin.take().unwrap(), b"Who are you?\n").unwrap();
    let answer = chat.wait_with_output().unwrap();
    assert!(answer.status.success() && !answer.stdout.is_empty());
}

#[test]
fn threads_do_not_change_the_bits() {
    let dir = tempfile::tempdir().unwrap();
    let outs: Vec<PathBuf> = ["1", "3"]
        .iter()
        .map(|threads| {
            let out = dir.path().join(threads);
            let arguments = [
                "run",
                "recipes/smoke.toml",
                "--quiet",
                "--threads",
                threads,
                "--out",
                out.to_str().unwrap(),
            ];
            let output = herd(&arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            out
        })
        .collect();
    for ((name, a), (_, b)) in models(&outs[0]).iter().zip(&models(&outs[1])) {
        assert!(a == b, "{name} differs between 1 and 3 threads");
    }
    // Stages after the first go where the run folder is, though the crawl is not there.
    let recipe = workspace().join("recipes/smoke.toml");
    let again = |stage: &str| {
        let arguments = [stage, recipe.to_str().unwrap(), "--out", outs[0].to_str().unwrap()];
        let output = herd(&arguments).current_dir(dir.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (done, said) = again("pretrain");
    assert!(done, "{said}");
    let (done, said) = again("data");
    assert!(!done && said.contains("quickstart-00003.warc.gz"), "{said}");
}

/// Runs a recipe that differs from the smallest one by `edit`, and returns what the program says.
fn refusal(edit: impl Fn(&str) -> String) -> String {
    let dir = tempfile::tempdir().unwrap();
    let recipe = dir.path().join("wrong.toml");
    let right = std::fs::read_to_string(workspace().join("recipes/smoke.toml")).unwrap();
    let wrong = edit(&right);
    assert_ne!(right, wrong, "the edit changed nothing");
    std::fs::write(&recipe, wrong).unwrap();
    let out = dir.path().join("out");
    let output = herd(&["run", recipe.to_str().unwrap(), "--out", out.to_str().unwrap()]).output().unwrap();
    assert!(!output.status.success());
    assert!(!out.exists(), "something was written before the recipe was refused");
    String::from_utf8(output.stderr).unwrap()
}

/// The edit that replaces the line of `key` in table `[table]`.
fn set(table: &'static str, key: &'static str, value: &'static str) -> impl Fn(&str) -> String {
    move |text| {
        let mut inside = false;
        let lines = text.lines().map(|line| {
            if line.starts_with('[') {
                inside = line.trim() == format!("[{table}]");
            }
            match inside && line.split('=').next().map(str::trim) == Some(key) {
                true => format!("{key} = {value}"),
                false => line.to_string(),
            }
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn wrong_recipes_are_refused_with_line_and_remedy_before_anything_is_written() {
    let line = |text: &str, needle: &str| 1 + text.lines().position(|l| l.starts_with(needle)).unwrap();
    let right = std::fs::read_to_string(workspace().join("recipes/smoke.toml")).unwrap();

    let said = refusal(set("model", "attention_heads", "7"));
    assert!(said.contains(&format!("wrong.toml:{}", line(&right, "attention_heads"))), "{said}");
    assert!(said.contains("choose one of"), "{said}");

    let said = refusal(set("tokenizer", "vocab_size", "200"));
    assert!(said.contains(&format!("wrong.toml:{}", line(&right, "vocab_size"))), "{said}");

    let said = refusal(|text| text.replace("[model]", "[model]\ncolour = 3"));
    assert!(said.contains("unknown field `colour`") && said.contains("`layers`"), "{said}");
    assert!(said.contains(&format!("line {}", line(&right, "[model]") + 1)), "{said}");

    let said = refusal(set("model", "layers", "\"two\""));
    assert!(
        said.contains("invalid type") && said.contains(&format!("line {}", line(&right, "layers"))),
        "{said}"
    );

    let said = refusal(|text| text.replace("seed = ", "seed == "));
    assert!(said.contains("wrong.toml"), "{said}");

    let said = refusal(set("align", "data", "\"examples/none\""));
    assert!(said.contains(&format!("wrong.toml:{}: examples/none", line(&right, "data = "))), "{said}");

    let said = refusal(|text| text.replace(".warc.gz\"", ".nothing\""));
    assert!(said.contains(".nothing"), "{said}");

    // `herd` hides the cards of a machine that has some.
    let said = refusal(|text| text.replace("[pretrain]\n", "[pretrain]\ndevice = \"cuda\"\n"));
    assert!(
        said.contains("stage `pretrain`: device `cuda` cannot be used") && said.contains("herd doctor"),
        "{said}"
    );
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let cases: [(&[&str], &str); 4] = [
        (&["run", "recipes/none.toml"], "cannot read recipe recipes/none.toml"),
        (&["chat", "crates"], "neither a model"),
        (&["serve", "no-such-folder"], "no-such-folder does not exist; name a .gguf file"),
        (&["report", "no-such-folder"], "no-such-folder"),
    ];
    for (arguments, expected) in cases {
        let output = herd(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
}

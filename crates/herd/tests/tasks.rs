//! The stage `data` as a scheduler sees it: `herd data plan`, `next` and `task`, each a process of its own; and its memory
//! as the crawl grows.

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn herd(arguments: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.current_dir(folder).arg("data").args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn output(arguments: &[&str]) -> String {
    let output = herd(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failure(arguments: &[&str]) -> String {
    let output = herd(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A recipe that says nothing but where the crawl is and how it is cut.
fn recipe(folder: &Path, crawl: &str, split_bytes: u64, partitions: usize) -> PathBuf {
    let file = folder.join(format!("recipe-{split_bytes}-{partitions}.toml"));
    let cut = format!("[data.tasks]\nsplit_bytes = {split_bytes}\npartitions = {partitions}\n");
    fs::write(&file, format!("name = \"tasks\"\nseed = 1\n[data]\ninput = [\"{crawl}\"]\n{cut}")).unwrap();
    file
}

/// Does all tasks; the largest peak of memory, megabytes.
fn do_all(recipe: &str, out: &str, memory: &str) -> u64 {
    let (mut peak, mut last) = (0, String::new());
    loop {
        let next = output(&["next", recipe, "--out", out, "--plain"]);
        let words: Vec<&str> = next.split_whitespace().collect();
        if words == ["done"] {
            return peak;
        }
        assert_ne!(last, words[0], "a step is done once");
        last = words[0].to_string();
        let all: Value = serde_json::from_str(&output(&["next", recipe, "--out", out])).unwrap();
        for k in all["missing"].as_array().unwrap() {
            let task = format!("{k}/{}", words[1]);
            let done = output(&["task", recipe, words[0], &task, "--out", out, "--memory", memory]);
            let done: Value = serde_json::from_str(&done).unwrap();
            assert_eq!(done["worked"], true, "{done}");
            peak = peak.max(done["peak_rss_mb"].as_u64().unwrap());
        }
    }
}

#[test]
fn tasks_in_processes_of_their_own_give_the_bits_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let crawl = "examples/quickstart/crawl/*-00000.warc.gz";
    let recipe = recipe(dir.path(), crawl, 700_000, 2);
    let recipe = recipe.to_str().unwrap();
    let folder = |name: &str| dir.path().join(name).display().to_string();
    let (alone, tasks) = (folder("alone"), folder("tasks"));
    output(&[recipe, "--out", &alone]);

    let plan = output(&["plan", recipe, "--out", &tasks]);
    assert!(plan.contains("1 files") && plan.contains("3 splits") && plan.contains("small-star"), "{plan}");
    assert_eq!(output(&["next", recipe, "--out", &tasks, "--plain"]), "pages 3 1-3\n");
    let fails = |step: &str, task: &str| failure(&["task", recipe, step, task, "--out", &tasks]);
    assert!(fails("clean", "1/3").contains("`clean` comes after `pages`"));
    assert!(fails("pages", "1/4").contains("has 3 tasks in this plan, not 4"));
    assert!(fails("pages", "4/3").contains("4/3"));
    assert!(fails("wash", "1/3").contains("no step `wash`"));
    let task = ["task", recipe, "pages", "2/3", "--out", &tasks];
    output(&task);
    assert_eq!(output(&["next", recipe, "--out", &tasks, "--plain"]), "pages 3 1,3\n");
    let again: Value = serde_json::from_str(&output(&task)).unwrap();
    assert_eq!(again["worked"], false);
    do_all(recipe, &tasks, "100MB");

    for name in ["documents.parquet", "rejects.parquet", "funnel.json", "summary.json"] {
        let read = |out: &str| fs::read(Path::new(out).join("data").join(name)).unwrap();
        assert!(read(&alone) == read(&tasks), "{name} differs");
    }
    // The whole stage finds it done.
    let said = herd(&[recipe, "--out", &tasks]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("done before"), "{said:?}");
}

/// Writes pages of their own words, and every fifth a second time with one word changed; bytes of HTML.
fn write_crawl(folder: &Path, pages: usize) -> u64 {
    fs::create_dir_all(folder).unwrap();
    let word = |n: u64| {
        let n = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let n = (n ^ n >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = n ^ n >> 32;
        let syllables = ["ba", "den", "sto", "ri", "mal", "ku", "ten", "vor", "sin", "ela", "dro", "pi"];
        (0..2 + n % 3).map(|k| syllables[(n >> (8 + 5 * k)) as usize % 12]).collect::<String>()
    };
    let mut bytes = 0;
    let mut file = zstd::Encoder::new(fs::File::create(folder.join("pages.jsonl.zst")).unwrap(), 1).unwrap();
    for page in 0..pages {
        for version in 0..1 + usize::from(page % 5 == 0) {
            let mut text = String::new();
            for line in 0..60u64 {
                let words = (0..12u64).map(|k| {
                    let changed = u64::from(version == 1 && line == 30 && k == 5);
                    word((page as u64) << 20 | line << 8 | k | changed << 60)
                });
                text.push_str(&format!("The {} of it.\n", words.collect::<Vec<_>>().join(" and ")));
            }
            bytes += text.len() as u64;
            let url = format!("https://site-{version}.example/{page}");
            let row = serde_json::json!({"url": url, "date": "2026-01-01T00:00:00Z", "text": text});
            writeln!(file, "{row}").unwrap();
        }
    }
    file.finish().unwrap();
    bytes
}

#[test]
fn a_crawl_larger_than_its_memory_is_spilled() {
    let dir = tempfile::tempdir().unwrap();
    let pages = 20_000;
    let bytes = write_crawl(dir.path(), pages);
    let recipe = recipe(dir.path(), &format!("{}/*.jsonl.zst", dir.path().display()), 1 << 30, 2);
    let out = dir.path().join("out").display().to_string();
    let peak = do_all(recipe.to_str().unwrap(), &out, "12MB");
    let summary = fs::read(Path::new(&out).join("data/summary.json")).unwrap();
    let summary: Value = serde_json::from_slice(&summary).unwrap();
    assert_eq!(summary["clusters"], pages.div_ceil(5) as u64, "{summary}");
    // All in one split, with 12 MB to sort. The program, two row groups of documents being read and written, and a batch of
    // pages take some 100 MB, however large the crawl is.
    assert!(bytes > 200_000_000, "{bytes}");
    assert!(peak < 140, "{peak} MB");
}

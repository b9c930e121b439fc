//! `herd bench train` with its smallest workload.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

fn bench(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd"));
    command.args(["bench", "train", "W0"]).args(arguments).stdin(Stdio::null());
    command
}

fn output(arguments: &[&str]) -> String {
    let output = bench(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a row says apart from times.
fn row(line: &str) -> (u64, f64) {
    let row: Value = serde_json::from_str(line).unwrap();
    assert_eq!(row["workload"], "W0");
    for key in ["seconds", "tokens_per_s", "gflops"] {
        assert!(row[key].as_f64().is_some_and(|value| value > 0.0), "{key} in {line}");
    }
    assert_eq!(row["peak_rss_mb"].is_number(), cfg!(target_os = "linux"));
    (row["step"].as_u64().unwrap(), row["loss"].as_f64().unwrap())
}

#[test]
fn one_json_line_a_step_the_same_for_any_number_of_threads() {
    let rows = |threads: &str| -> Vec<_> {
        output(&["--json", "--steps", "20", "--threads", threads]).lines().map(row).collect()
    };
    let one = rows("1");
    assert_eq!(one.iter().map(|row| row.0).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!((one[0].1 - 1000f64.ln()).abs() < 0.01 && one[19].1 < one[0].1 - 0.5, "{one:?}");
    assert!(one == rows("2") && one == rows("3"), "the last loss depends on every bit of the steps before");
    let recomputed: Vec<_> = output(&["--json", "--steps", "20", "--recompute"]).lines().map(row).collect();
    assert!(recomputed == one, "blocks computed again give the same bits");
    let fresh: Vec<_> = output(&["--json", "--steps", "2", "--fresh"]).lines().map(row).collect();
    assert!(fresh[0] == one[0] && fresh[1] != one[1], "{fresh:?}");
}

#[test]
fn a_driver_gets_one_step_for_each_line() {
    let mut child =
        bench(&["--json", "--interactive"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut lines) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    for step in 1..=3 {
        writeln!(input, "step").unwrap();
        assert_eq!(row(&lines.next().unwrap().unwrap()).0, step);
    }
    drop(input);
    assert!(lines.next().is_none() && child.wait().unwrap().success());
}

/// After Ctrl-C nothing is left that could be continued.
#[cfg(unix)]
#[test]
fn a_benchmark_that_is_stopped_says_that_it_starts_anew() {
    let mut child = bench(&["--json", "--steps", "1000000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(row(&lines.next().unwrap().unwrap()).0, 1);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    lines.for_each(|line| drop(line.unwrap()));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("the same command starts anew") && !said.contains("to continue"), "{said}");
}

#[test]
fn people_get_a_table_and_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.json");
    let text = output(&["--steps", "3", "--trace", path.to_str().unwrap()]);
    for expected in
        ["planned peak memory", "% of the measured peak", "tokens/s", "attention backward", "adamw"]
    {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let trace: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.iter().any(|event| event["name"] == "swiglu" && event["args"]["step"] == 3), "{trace}");
    assert!(events.iter().all(|event| event["ph"] == "X" && event["dur"].as_f64() >= Some(0.0)));
}

#[test]
fn an_unknown_workload_and_a_wrong_command_are_told() {
    let unknown = Command::new(env!("CARGO_BIN_EXE_herd")).args(["bench", "train", "W9"]).output().unwrap();
    assert!(!unknown.status.success());
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("W1, W2"));
    let mut child =
        bench(&["--json", "--interactive"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "stop").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("`stop`"));
}

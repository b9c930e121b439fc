//! `herd bench train` on the card made of the processor. One test alone, since it tells this process where the card's libraries
//! are. Needs g++.

#![cfg(target_os = "linux")]

#[path = "../../tensor/tests/fake_card/mod.rs"]
mod fake_card;

use herd_run::Context;
use herd_train::bench::{Options, Workload, run};
use herd_train::{AdamWSettings, Device, Precision};
use std::io::empty;

#[test]
fn the_measurement_tells_what_was_launched_as_graphs() {
    let cache = tempfile::tempdir().unwrap();
    // SAFETY: no other thread of this process reads or writes the environment yet.
    unsafe {
        std::env::set_var("HERD_CUDA_LIBS", fake_card::folder());
        std::env::set_var("XDG_CACHE_HOME", cache.path());
    }
    let shape = Workload { model_dimension: 32, heads: 2, kv_heads: 1, ..Workload::find("W0").unwrap() };
    let workload = Workload { tokens: 120, sequence: 0, longest: 60, ..shape };
    let options = Options {
        workload,
        steps: 6,
        json: false,
        interactive: false,
        fresh: true,
        optimizer: AdamWSettings::default(),
        device: Device::Cuda,
        precision: Precision::Tf32,
        trace: None,
    };
    let told = |options: &Options| {
        let mut output = Vec::new();
        run(options, empty(), &mut output, &Context::quiet()).unwrap();
        String::from_utf8(output).unwrap()
    };
    let text = told(&options);
    let line = text.lines().find(|line| line.trim_start().starts_with("graphs")).expect(&text);
    let numbers: Vec<u64> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
    let [launched, lists, captured] = numbers[..] else { panic!("{text}") };
    // Of each step two lists: what its one micro-batch asks for, and the optimizer.
    assert!(launched >= 6 && launched < lists && (2..6).contains(&captured), "{text}");
    assert!(text.contains("by the processor") && text.contains("Tf32"), "{text}");

    let text = told(&Options { json: true, ..options });
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["lists"], serde_json::json!([2, 2]), "{text}");
    assert!(last["host_seconds"].as_f64().unwrap() <= last["seconds"].as_f64().unwrap(), "{text}");
}

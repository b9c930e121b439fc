//! Any bytes as a GGUF file.
#![no_main]

use herd_infer::{Generator, Settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("a temporary file");
    let _ = herd_convert::inspect::inspect(&path, true).map(|report| report.to_string());
    if let Ok(generator) = Generator::open(&path, Settings::default()) {
        let _ = generator.logits(&[0, 1, 2]);
    }
});

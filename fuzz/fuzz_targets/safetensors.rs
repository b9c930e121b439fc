//! Any bytes as `config.json` and `model.safetensors`: the first zero byte stands between them.
#![no_main]

use herd_infer::{Generator, Settings};
use libfuzzer_sys::fuzz_target;

const TOKENIZER: &str = include_str!("../../crates/infer/tests/golden/checkpoints/llama2/tokenizer.json");

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|&b| b == 0).unwrap_or(0);
    let (config, weights) = bytes.split_at(at);
    let dir = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("a temporary file");
    write("config.json", config);
    write("model.safetensors", weights.get(1..).unwrap_or_default());
    write("tokenizer.json", TOKENIZER.as_bytes());
    let _ = herd_convert::inspect::inspect(dir.path(), true).map(|report| report.to_string());
    if let Ok(generator) = Generator::open(dir.path(), Settings::default()) {
        let _ = generator.logits(&[0, 1, 2]);
    }
});

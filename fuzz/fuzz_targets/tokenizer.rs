//! Any bytes as a tokenizer file (`tokenizer.json` or tiktoken ranks), which then encodes and decodes.
#![no_main]

use herd_tokenizer::Tokenizer;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(tokenizer) = Tokenizer::load(&path) {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        let ids = tokenizer.encode_with_special(&text);
        tokenizer.decode(&ids);
        let _ = tokenizer.to_gguf().map(|gguf| Tokenizer::from_gguf(&gguf));
    }
});

//! Any text as a chat template.
#![no_main]

use herd_tokenizer::chat::{ChatTemplate, Dialog};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::new(source) {
        let message = serde_json::json!({ "role": "user", "content": "Hi" });
        let _ = template.render(&Dialog { messages: vec![message], ..Dialog::default() });
    }
});

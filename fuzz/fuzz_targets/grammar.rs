//! Any text as a grammar of llama.cpp, which an answer then follows for a few tokens.
#![no_main]

use herd_infer::{Generator, Grammar, Sampling, Settings};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

#[path = "../../crates/infer/tests/tiny/mod.rs"]
mod tiny;

static GENERATOR: LazyLock<Generator> = LazyLock::new(|| tiny::generator(Settings::default()));

fuzz_target!(|text: &str| {
    if let Ok(form) = GENERATOR.compile(&Grammar::Gbnf(text.into())) {
        let sampling = Sampling { constraint: Some(form), max_tokens: 6, ..Sampling::default() };
        GENERATOR.generate(&[tiny::prompt(4, 1)], 1, &sampling).expect("an answer");
    }
});

//! Bodies of requests: the first byte chooses the endpoint. Whatever comes, there is an answer or an error that says
//! what is wrong, and no server error.
#![no_main]

use herd_infer::Generator;
use herd_serve::{Options, Server};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

#[path = "../../crates/infer/tests/tiny/mod.rs"]
mod tiny;

const PATHS: [&str; 7] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/completion",
    "/tokenize",
    "/detokenize",
    "/apply-template",
];

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let options = Options { port: 0, default_max_tokens: 4, ..Options::default() };
    let tokenizer = tiny::tokenizer();
    let (llama, params) = tiny::model_of_context(&tokenizer, 1024);
    let generator = Generator::new(llama, params, tokenizer, options.generation.clone());
    Server::bind(generator.expect("a model"), "tiny", &options).expect("a free port")
});

fuzz_target!(|data: &[u8]| {
    let Some((&choice, body)) = data.split_first() else { return };
    let path = PATHS[usize::from(choice) % PATHS.len()];
    let (status, reply) = SERVER.answer("POST", path, body.to_vec()).expect("an answer");
    assert!(status < 500, "{path}: {status} {}", String::from_utf8_lossy(&reply));
});

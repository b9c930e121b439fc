//! What editor plug-ins and dashboards of llama-server ask for: filling in the middle, slots, reranking.

mod client;

use client::{CONTEXT, Running, start, start_with, tiny};
use herd_infer::Settings;
use herd_serve::Options;
use herd_tokenizer::Tokenizer;
use serde_json::{Value, json};

/// The tiny vocabulary with the names of a model that fills in the middle.
fn filling_tokenizer() -> Tokenizer {
    let folder = tempfile::tempdir().unwrap();
    tiny::tokenizer().save(folder.path()).unwrap();
    let file = folder.path().join("tokenizer.json");
    let mut text = std::fs::read_to_string(&file).unwrap();
    for (number, name) in
        ["fim_prefix", "fim_suffix", "fim_middle", "repo_name", "file_sep"].iter().enumerate()
    {
        let old = format!("<|reserved_special_token_{number}|>");
        assert!(text.contains(&old), "{old}");
        text = text.replace(&old, &format!("<|{name}|>"));
    }
    std::fs::write(&file, text).unwrap();
    Tokenizer::load(folder.path()).unwrap()
}

fn post(server: &Running, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn the_middle_is_what_a_completion_of_the_marked_prompt_gives() {
    let server = start_with(filling_tokenizer(), Options::default());
    let tokenizer = server.generator.tokenizer();
    let token = |name: &str| tokenizer.special(name).unwrap();
    let mut marked = vec![tokenizer.specials().bos, token("<|repo_name|>")];
    marked.extend(tokenizer.encode("myproject\n"));
    for file in ["a.rs\nthe log\n", "b.rs\nthe mat\n", "filename\n"] {
        marked.push(token("<|file_sep|>"));
        marked.extend(tokenizer.encode(file));
    }
    marked.push(token("<|fim_prefix|>"));
    marked.extend(tokenizer.encode("the cat"));
    marked.push(token("<|fim_suffix|>"));
    // What looks like a mark in a text is text.
    marked.extend(tokenizer.encode("on the <|fim_middle|> mat"));
    marked.push(token("<|fim_middle|>"));
    marked.extend(tokenizer.encode(" sat"));
    let how = json!({ "n_predict": 12, "temperature": 0, "ignore_eos": true, "n_probs": 1 });
    let ask = |more: Value| {
        let mut body = how.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let expected = post(&server, "/completion", &ask(json!({ "prompt": marked })));
    let request = json!({
        "input_prefix": "the cat", "input_suffix": "on the <|fim_middle|> mat", "prompt": " sat",
        "input_extra": [{ "filename": "a.rs", "text": "the log" }, { "filename": "b.rs", "text": "the mat" }],
    });
    let found = post(&server, "/infill", &ask(request.clone()));
    assert_eq!(found["tokens_evaluated"], marked.len());
    assert_eq!(found["content"], expected["content"]);
    assert_eq!(found["tokens"], expected["tokens"]);

    let mut chosen = ask(request);
    chosen["response_fields"] = json!(["content", "timings/predicted_n", "nothing/here"]);
    let chosen = post(&server, "/infill", &chosen);
    assert_eq!(chosen, json!({ "content": found["content"], "timings/predicted_n": 12 }));

    // A text longer than the context is cut where it is farthest from the middle.
    let long = json!({ "input_prefix": "the dog ".repeat(CONTEXT), "input_suffix": "", "n_predict": 2 });
    let evaluated = post(&server, "/infill", &long)["tokens_evaluated"].as_u64().unwrap() as usize;
    assert_eq!(evaluated, CONTEXT - 2);

    for (body, field) in [
        (json!({ "input_suffix": "x" }), "input_suffix"),
        (json!({ "input_prefix": 3, "input_suffix": "x" }), "input_prefix"),
        (json!({ "input_prefix": "x", "input_suffix": "", "input_extra": "y" }), "input_extra"),
        (
            json!({ "input_prefix": "x", "input_suffix": "", "input_extra": [{ "filename": "y" }] }),
            "input_extra",
        ),
        (json!({ "input_prefix": "x", "input_suffix": "", "prompt": [1] }), "prompt"),
        (json!({ "input_prefix": "x", "input_suffix": "", "temperature": "hot" }), "temperature"),
    ] {
        let reply = server.post("/infill", &body);
        let param = if field == "input_suffix" { "input_prefix" } else { field };
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)), "{}", reply.text());
    }
}

#[test]
fn a_model_that_cannot_fill_in_says_so() {
    let server = start(Options::default());
    let reply = server.post("/infill", &json!({ "input_prefix": "a", "input_suffix": "b" }));
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["code"]), (501, &json!("not_supported")));
    assert!(error["message"].as_str().unwrap().contains("no token for the prefix"), "{error}");
}

#[test]
fn a_language_model_does_not_rerank() {
    let server = start(Options::default());
    for path in ["/v1/rerank", "/v1/reranking", "/rerank", "/reranking"] {
        let reply = server.post(path, &json!({ "query": "a", "documents": ["b", "c"], "top_n": 1 }));
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (501, &json!("not_supported")), "{path}");
        for (body, field) in [
            (json!({ "documents": ["b"] }), "query"),
            (json!({ "query": "a" }), "documents"),
            (json!({ "query": "a", "documents": [] }), "documents"),
            (json!({ "query": "a", "documents": [1] }), "documents"),
        ] {
            let reply = server.post(path, &body);
            assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(field)), "{path}");
        }
    }
}

#[test]
fn slots_show_what_is_answered_now() {
    let generation = Settings { max_sequences: 3, ..Settings::default() };
    let server = start(Options { generation, ..Options::default() });
    let taken = || {
        let slots = server.get("/slots").json();
        let slots = slots.as_array().unwrap();
        assert_eq!(slots.len(), 3);
        assert!(slots.iter().enumerate().all(|(id, slot)| slot["id"] == id && slot["n_ctx"] == CONTEXT));
        slots.iter().filter(|slot| slot["is_processing"] == true).cloned().collect::<Vec<_>>()
    };
    assert_eq!(taken().len(), 0);
    let endless =
        json!({ "prompt": "the cat", "n_predict": 4000, "ignore_eos": true, "stream": true, "seed": 5 });
    let body = endless.to_string();
    let hold = || server.send("POST", "/completion", "Content-Type: application/json\r\n", body.as_bytes());
    let held: Vec<_> = (0..3).map(|_| hold()).collect();
    let wait = |count: usize| loop {
        let taken = taken();
        if taken.len() == count {
            return taken;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let all = wait(3);
    for slot in &all {
        assert_eq!(slot["params"]["seed"], 5);
        let next = &slot["next_token"];
        let (drawn, left) = (next["n_decoded"].as_u64().unwrap(), next["n_remain"].as_u64().unwrap());
        assert_eq!(drawn + left, 4000);
    }
    assert_eq!(server.get("/slots?fail_on_no_slot=1").status, 503);
    drop(held);
    wait(0);
    assert_eq!(server.get("/slots?fail_on_no_slot=1").status, 200);
    assert_eq!(server.post("/slots/0?action=erase", &json!({})).status, 501);
}

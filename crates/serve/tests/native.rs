//! llama-server's endpoints, embeddings, other origins, and limits of time.

mod client;

use client::{CONTEXT, MODEL, Running, start};
use herd_serve::Options;
use serde_json::{Value, json};

fn post(server: &Running, path: &str, body: Value) -> Value {
    let reply = server.post(path, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn a_native_completion_is_what_the_openai_one_says() {
    let server = start(Options::default());
    let native =
        json!({ "prompt": "the cat", "n_predict": 12, "temperature": 0, "ignore_eos": true, "n_probs": 2 });
    let whole = post(&server, "/completion", native.clone());
    assert_eq!((&whole["stop"], &whole["stop_type"]), (&json!(true), &json!("limit")));
    assert_eq!(whole["tokens"].as_array().unwrap().len(), 12);
    assert_eq!((&whole["tokens_predicted"], &whole["timings"]["predicted_n"]), (&json!(12), &json!(12)));
    assert_eq!(whole["completion_probabilities"].as_array().unwrap().len(), 12);
    let tokenizer = server.generator.tokenizer();
    let plain = |t: &Value| t.as_u64().map(|t| t as u32).filter(|&t| !tokenizer.is_special(t));
    let said: Vec<u32> = whole["tokens"].as_array().unwrap().iter().filter_map(plain).collect();
    assert_eq!(post(&server, "/detokenize", json!({ "tokens": said }))["content"], whole["content"]);

    let mut streamed = native;
    streamed["stream"] = true.into();
    let reply = server.post("/completion", &streamed);
    let events: Vec<Value> = (reply.text().split("\n\n").filter(|l| !l.is_empty()))
        .map(|l| serde_json::from_str(l.strip_prefix("data: ").unwrap()).unwrap())
        .collect();
    let (last, parts) = events.split_last().unwrap();
    let text: String = events.iter().map(|p| p["content"].as_str().unwrap()).collect();
    assert_eq!(json!(text), whole["content"]);
    assert!(last["stop"] == true && last["timings"].is_object() && parts.iter().all(|p| p["stop"] == false));

    let shown = parts.iter().filter_map(|p| p["completion_probabilities"].as_array()).flatten();
    assert_eq!(json!(shown.collect::<Vec<_>>()), whole["completion_probabilities"]);

    let two =
        json!({ "prompt": ["the cat", [1, 2, 3]], "n_predict": 12, "temperature": 0, "ignore_eos": true });
    let two = post(&server, "/completion", two);
    assert_eq!(two[0]["content"], whole["content"]);
    assert_eq!((two.as_array().unwrap().len(), &two[1]["index"]), (2, &json!(1)));
    // More prompts than the queue holds are one request all the same.
    let many: Vec<String> = (0..200).map(|i| format!("the {i}")).collect();
    let many = post(&server, "/completion", json!({ "prompt": many, "n_predict": 1 }));
    assert_eq!(many.as_array().unwrap().len(), 200);
    // No token: the prompt is put into the cache.
    let text = "qz".repeat(30);
    let none = post(&server, "/completion", json!({ "prompt": text, "n_predict": 0 }));
    assert_eq!((&none["content"], &none["tokens_predicted"]), (&json!(""), &json!(0)));
    let again = post(&server, "/completion", json!({ "prompt": text, "n_predict": 1 }));
    assert!(again["tokens_cached"].as_u64() > none["tokens_cached"].as_u64(), "{again}");

    let form = json!({ "prompt": "x", "json_schema": { "type": "boolean" }, "seed": -1, "n_predict": -1, "logit_bias": [[5, false]] });
    let answer = post(&server, "/completion", form);
    assert!(
        ["true", "false"].contains(&answer["content"].as_str().unwrap().trim())
            && answer["stop_type"] == "eos"
    );
    let error = server.post("/completion", &json!({ "prompt": "x", "temperature": "hot" }));
    assert_eq!((error.status, &error.json()["error"]["param"]), (400, &json!("temperature")));
}

#[test]
fn texts_and_tokens_are_turned_into_each_other() {
    let server = start(Options::default());
    let text = "the cat<|eot_id|> é";
    let tokenizer = server.generator.tokenizer();
    let tokens = post(&server, "/tokenize", json!({ "content": text }));
    assert_eq!(tokens["tokens"], json!(tokenizer.encode_with_special(text)));
    let plain =
        post(&server, "/tokenize", json!({ "content": text, "parse_special": false, "add_special": true }));
    assert_eq!(plain["tokens"], json!([vec![tokenizer.specials().bos], tokenizer.encode(text)].concat()));
    assert_eq!(post(&server, "/detokenize", json!({ "tokens": tokens["tokens"] }))["content"], text);
    let pieces = post(&server, "/tokenize", json!({ "content": "the cat", "with_pieces": true }));
    let pieces = pieces["tokens"].as_array().unwrap();
    assert_eq!(pieces.iter().map(|p| p["piece"].as_str().unwrap()).collect::<String>(), "the cat");
    let prompt =
        post(&server, "/apply-template", json!({ "messages": [{ "role": "user", "content": "hi" }] }));
    assert!(
        prompt["prompt"].as_str().unwrap().ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n")
    );
    let props = server.get("/props").json();
    assert_eq!(
        (&props["default_generation_settings"]["n_ctx"], &props["model_alias"]),
        (&json!(CONTEXT), &json!(MODEL))
    );
    assert!(props["chat_template"].as_str().unwrap().contains("<|start_header_id|>"));
    for (path, body, field) in [
        ("/tokenize", json!({}), "content"),
        ("/tokenize", json!({ "content": 3 }), "content"),
        ("/detokenize", json!({ "tokens": [-1] }), "tokens"),
        ("/apply-template", json!({ "messages": [] }), "messages"),
        ("/completion", json!({ "prompt": ["a", {}] }), "prompt"),
    ] {
        let reply = server.post(path, &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(field)), "{path}");
    }
}

#[test]
fn embeddings_come_as_numbers_and_as_base64() {
    let server = start(Options::default());
    let one = post(
        &server,
        "/v1/embeddings",
        json!({ "model": MODEL, "input": ["the cat", "the dog", "the cat"] }),
    );
    let vector = |of: &Value| -> Vec<f32> {
        of["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
    };
    let data = one["data"].as_array().unwrap();
    assert_eq!(data.iter().map(|d| d["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    let (cat, dog) = (vector(&data[0]), vector(&data[1]));
    assert_eq!(cat.len(), server.generator.embedding_size());
    assert!(cat == vector(&data[2]) && cat != dog);
    assert!((cat.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    let short =
        post(&server, "/v1/embeddings", json!({ "input": "the cat", "dimensions": 8, "pooling": "last" }));
    let short = vector(&short["data"][0]);
    assert!(short.len() == 8 && (short.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    let coded = post(&server, "/v1/embeddings", json!({ "input": "the cat", "encoding_format": "base64" }));
    assert_eq!(coded["data"][0]["embedding"].as_str().unwrap().len(), (cat.len() * 4).div_ceil(3) * 4);
    for (body, field) in [
        (json!({}), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": "" }), "input"),
        (json!({ "input": ["a", ""] }), "input[1]"),
        (json!({ "input": [[]] }), "input[0]"),
        (json!({ "input": [3.5] }), "input"),
        (json!({ "input": "word ".repeat(CONTEXT) }), "input"),
        (json!({ "input": "a", "dimensions": 0 }), "dimensions"),
        (json!({ "input": "a", "encoding_format": "int8" }), "encoding_format"),
        (json!({ "input": "a", "pooling": "max" }), "pooling"),
    ] {
        let reply = server.post("/v1/embeddings", &body);
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(field)), "{}", reply.text());
    }
}

#[test]
fn pages_of_other_origins_need_leave() {
    let ask = |server: &Running, method: &str, origin: &str| {
        let headers = format!("Origin: {origin}\r\nContent-Type: application/json\r\n");
        server.request(method, "/v1/completions", &headers, b"{\"prompt\": \"x\", \"max_tokens\": 1}")
    };
    let closed = start(Options::default());
    let reply = ask(&closed, "POST", "https://example.org");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (403, &json!("origin_not_allowed")));
    assert!(!reply.headers.to_lowercase().contains("access-control"));
    assert_eq!(ask(&closed, "POST", "http://localhost").status, 200, "its own page");
    let open = start(Options { cors: vec!["https://example.org".into()], ..Options::default() });
    for (method, status) in [("OPTIONS", 204), ("POST", 200)] {
        let reply = ask(&open, method, "https://example.org");
        assert_eq!(reply.status, status);
        let headers = reply.headers.to_lowercase();
        assert!(headers.contains("access-control-allow-origin: https://example.org"), "{headers}");
        assert!(headers.contains("access-control-allow-headers: *, authorization"), "{headers}");
    }
    assert_eq!(ask(&open, "POST", "https://example.com").status, 403);
    let all = start(Options { cors: vec!["*".into()], ..Options::default() });
    assert_eq!(ask(&all, "POST", "https://example.com").status, 200);
}

#[test]
fn an_answer_that_takes_too_long_is_ended_and_its_pages_come_back() {
    let server = start(Options { answer_seconds: 0, ..Options::default() });
    let mut body = json!({ "prompt": "x", "max_tokens": 3000, "logit_bias": { "7": 50 } });
    let reply = server.post("/v1/completions", &body);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (504, &json!("timeout")));
    body["stream"] = true.into();
    let reply = server.post("/v1/completions", &body);
    assert!(reply.status == 200 && reply.text().contains("\"code\":\"timeout\""), "{}", reply.text());
    server.settle();
    assert_eq!(server.metric("herd_cache_pages_used"), 0);
}

#[test]
fn the_description_is_served() {
    let server = start(Options::default());
    let description = server.get("/openapi.json").json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    // Every address answers, and not that there is nothing.
    for (path, methods) in description["paths"].as_object().unwrap() {
        let path = path.replace("{id}", MODEL);
        for method in methods.as_object().unwrap().keys() {
            let reply = server.request(&method.to_uppercase(), &path, "", b"{}");
            assert!(![404, 405].contains(&reply.status), "{method} {path}: {}", reply.status);
        }
    }
}

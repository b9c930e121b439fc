//! Thousands of requests that are almost right: each gets an answer or an error, and none does harm.

#[path = "../../infer/tests/tiny/mod.rs"]
mod tiny;

use herd_infer::Generator;
use herd_serve::{Options, Server};
use serde_json::{Value, json};

/// splitmix64
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

fn seeds() -> Vec<(&'static str, Value)> {
    let messages = json!([
        { "role": "system", "content": "be brief" },
        { "role": "user", "content": [{ "type": "text", "text": "the cat" }] },
        { "role": "assistant", "content": null, "tool_calls": [
            { "id": "a", "type": "function", "function": { "name": "f", "arguments": "{\"x\": 1}" } },
        ] },
        { "role": "tool", "tool_call_id": "a", "content": "2" },
    ]);
    let tools = json!([{ "type": "function", "function": { "name": "f", "parameters": {
        "type": "object", "properties": { "x": { "type": "integer" } }, "required": ["x"],
    } } }]);
    let schema = json!({ "type": "object", "properties": { "a": { "type": ["string", "null"], "maxLength": 5 }, "b": { "anyOf": [{ "const": 1 }, { "$ref": "#/$defs/c" }] } }, "$defs": { "c": { "type": "array", "items": { "type": "boolean" }, "maxItems": 2 } } });
    vec![
        (
            "/v1/chat/completions",
            json!({ "model": "tiny", "messages": messages, "max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "n": 2, "stop": ["a", "b"], "logprobs": true, "top_logprobs": 2, "seed": 1, "logit_bias": { "7": 2 } }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "tools": tools, "tool_choice": "auto", "parallel_tool_calls": false, "stream": true, "stream_options": { "include_usage": true }, "max_completion_tokens": 3 }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": messages, "tools": tools, "tool_choice": { "type": "function", "function": { "name": "f" } }, "max_tokens": 5 }),
        ),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "x" }], "response_format": { "type": "json_schema", "json_schema": { "name": "s", "schema": schema, "strict": true } }, "max_tokens": 5 }),
        ),
        (
            "/v1/completions",
            json!({ "prompt": ["a", [1, 2, 3]], "max_tokens": 3, "echo": true, "logprobs": 1, "structured_outputs": { "regex": "[a-z]{2,9}" } }),
        ),
        ("/v1/embeddings", json!({ "input": ["a b", "c"], "dimensions": 4, "encoding_format": "base64" })),
        (
            "/completion",
            json!({ "prompt": "x", "n_predict": 3, "grammar": "start: \"a\" | \"b\"{1,3}", "logit_bias": [[5, false]], "n_probs": 2 }),
        ),
        ("/tokenize", json!({ "content": "x y", "with_pieces": true })),
        ("/detokenize", json!({ "tokens": [1, 2, 3] })),
        (
            "/apply-template",
            json!({ "messages": messages, "tools": tools, "chat_template_kwargs": { "date_string": "x" } }),
        ),
    ]
}

fn strange(random: &mut Random) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(""),
        json!("\u{0}\u{fdd0}<|eot_id|>"),
        json!("é".repeat(50)),
        json!("("),
        json!([]),
        json!({}),
        json!([[[[]]]]),
        json!({ "type": "object" }),
        json!({ "type": "function" }),
        json!(["", null, 3]),
        json!({ "$ref": "#" }),
        json!({ "not": {} }),
        json!(vec!["x"; 300]),
    ];
    random.pick(&values).clone()
}

/// Puts something strange in one place of a JSON value.
fn change(value: &mut Value, random: &mut Random) {
    match value {
        Value::Array(list) if !list.is_empty() && random.below(4) > 0 => {
            let at = random.below(list.len());
            change(&mut list[at], random);
        }
        Value::Object(map) if !map.is_empty() && random.below(5) > 0 => {
            let at = random.below(map.len());
            let key = map.keys().nth(at).cloned().unwrap();
            match random.below(8) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(format!("{key}s"), strange(random))),
                _ => change(&mut map[&key], random),
            }
        }
        other => *other = strange(random),
    }
}

/// Damages the text itself.
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    let end = (at + random.below(9)).min(bytes.len());
    let parts: [&[u8]; 9] =
        [b"\"", b"{", b"]", b"\\ud800", b"\xff", b"1e999", b"null", b"\x00", &[b'['; 200]];
    match random.below(5) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => bytes[at] ^= 1 << random.below(8),
        3 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        _ => drop(bytes.splice(at..end, random.pick(&parts).iter().copied())),
    }
}

#[test]
fn almost_right_requests_get_an_answer_or_an_error() {
    let options = Options { port: 0, default_max_tokens: 4, ..Options::default() };
    let tokenizer = tiny::tokenizer();
    let (llama, params) = tiny::model_of_context(&tokenizer, 1024);
    let generator = Generator::new(llama, params, tokenizer, options.generation.clone());
    let server = Server::bind(generator.unwrap(), "tiny", &options).unwrap();
    let seeds = seeds();
    for (path, body) in &seeds {
        let (status, reply) = server.answer("POST", path, body.to_string().into_bytes()).unwrap();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&reply));
    }
    let mut random = Random(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3000 {
        let (path, mut body) = random.pick(&seeds).clone();
        let in_values = random.below(3) > 0;
        if in_values {
            (0..=random.below(2)).for_each(|_| change(&mut body, &mut random));
        }
        let mut bytes = body.to_string().into_bytes();
        if !in_values {
            damage(&mut bytes, &mut random);
        }
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        let (status, reply) = server.answer("POST", path, bytes).unwrap();
        let text = String::from_utf8(reply).unwrap();
        if status == 200 {
            good += 1;
            continue;
        }
        bad += 1;
        assert!([400, 404].contains(&status), "{status} for {path} {shown}: {text}");
        let error: Value = serde_json::from_str(&text).unwrap();
        assert!(
            error["error"]["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 2000),
            "{text}"
        );
    }
    assert!(good > 300 && bad > 1000, "{good} answers, {bad} errors");
    for (path, body) in &seeds {
        assert_eq!(
            server.answer("POST", path, body.to_string().into_bytes()).unwrap().0,
            200,
            "alive: {path}"
        );
    }
}

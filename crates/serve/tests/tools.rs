//! Tools and forms, with a random model that is held to them by grammars.

mod client;

use client::{MODEL, Running, start};
use herd_serve::Options;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn tools() -> Value {
    json!([
        { "type": "function", "function": {
            "name": "get_weather",
            "description": "Says what the weather is like",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": { "enum": ["Paris", "Oslo"] },
                    "days": { "$ref": "#/$defs/days" },
                },
                "required": ["city", "days"],
                "additionalProperties": false,
                "$defs": { "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
            },
        } },
        { "type": "function", "function": { "name": "stop_music" } },
    ])
}

fn body(extra: Value) -> Value {
    let mut body = json!({
        "model": MODEL,
        "messages": [{ "role": "user", "content": "the weather in Oslo?" }],
        "max_tokens": 400,
        "seed": 3,
        "tools": tools(),
    });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn ask(server: &Running, extra: Value) -> Value {
    let reply = server.post(CHAT, &body(extra));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A request whose whole answer is `text`, and streamed what it says, put together.
fn saying(server: &Running, text: &str, extra: Value) -> (Value, Value) {
    let mut extra = extra;
    extra["structured_outputs"] = json!({ "choice": [text] });
    let whole = ask(server, extra.clone())["choices"][0].clone();
    extra["stream"] = true.into();
    let reply = server.post(CHAT, &body(extra));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut message = json!({ "role": "assistant", "content": "", "refusal": null });
    let mut reason = Value::Null;
    for chunk in reply.events() {
        let choice = &chunk["choices"][0];
        if let Some(text) = choice["delta"]["content"].as_str() {
            message["content"] = (message["content"].as_str().unwrap().to_string() + text).into();
        }
        for part in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            if message["tool_calls"].is_null() {
                message["tool_calls"] = json!([]);
            }
            let index = part["index"].as_u64().unwrap() as usize;
            if part["id"].is_string() {
                assert_eq!(message["tool_calls"].as_array().unwrap().len(), index);
                message["tool_calls"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({ "name": part["function"]["name"], "arguments": "" }));
            }
            let arguments = &mut message["tool_calls"][index]["arguments"];
            *arguments = (arguments.as_str().unwrap().to_string()
                + part["function"]["arguments"].as_str().unwrap())
            .into();
        }
        if choice["finish_reason"].is_string() {
            reason = choice["finish_reason"].clone();
        }
    }
    assert_eq!(reason, whole["finish_reason"]);
    (whole, message)
}

#[test]
fn a_forced_call_has_the_form_of_its_schema() {
    let server = start(Options::default());
    for seed in 0..6 {
        let answer =
            ask(&server, json!({ "tool_choice": "required", "seed": seed, "parallel_tool_calls": false }));
        let choice = &answer["choices"][0];
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!((calls.len(), &choice["finish_reason"]), (1, &json!("tool_calls")));
        assert!(choice["message"]["content"].is_null());
        assert!(["get_weather", "stop_music"].contains(&calls[0]["function"]["name"].as_str().unwrap()));
    }
    let named = json!({ "type": "function", "function": { "name": "get_weather" } });
    for temperature in [0.0, 1.0, 2.0] {
        let answer = ask(&server, json!({ "tool_choice": named, "temperature": temperature, "n": 4 }));
        for choice in answer["choices"].as_array().unwrap() {
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            assert_eq!((calls.len(), calls[0]["function"]["name"].as_str()), (1, Some("get_weather")));
            let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            assert!(["Paris", "Oslo"].contains(&arguments["city"].as_str().unwrap()));
            assert!((1..=9).contains(&arguments["days"].as_i64().unwrap()));
        }
    }
}

#[test]
fn calls_are_found_in_free_answers_and_streams() {
    let server = start(Options::default());
    let one = "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\", \"days\": 2}}";
    let two = "{\"name\": \"stop_music\", \"parameters\": {}}";
    let (whole, streamed) = saying(&server, &format!("{one}; {two}"), json!({}));
    let calls = whole["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(whole["finish_reason"], "tool_calls");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["function"]["arguments"], "{\"city\": \"Oslo\", \"days\": 2}");
    assert!(calls[0]["id"].as_str().unwrap().starts_with("call_") && calls[0]["id"] != calls[1]["id"]);
    assert_eq!(streamed["content"], "");
    for (streamed, whole) in streamed["tool_calls"].as_array().unwrap().iter().zip(calls) {
        assert_eq!(streamed["name"], whole["function"]["name"]);
        assert_eq!(streamed["arguments"], whole["function"]["arguments"]);
    }
    // One is enough if the client says so.
    let (whole, streamed) =
        saying(&server, &format!("{one}; {two}"), json!({ "parallel_tool_calls": false }));
    assert_eq!(whole["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(streamed["tool_calls"].as_array().unwrap().len(), 1);
    // Without tools, or with "none", the same text is text.
    let (whole, streamed) = saying(&server, one, json!({ "tool_choice": "none" }));
    assert_eq!((&whole["message"]["content"], &streamed["content"]), (&json!(one), &json!(one)));
    assert!(whole["message"].get("tool_calls").is_none());
    let (whole, _) = saying(&server, "It is sunny in {Oslo}.", json!({}));
    assert_eq!(whole["message"]["content"], "It is sunny in {Oslo}.");
    assert_eq!(whole["finish_reason"], "stop");
}

#[test]
fn the_python_tag_makes_calls_of_built_in_tools() {
    let server = start(Options::default());
    let grammar = "start: <|python_tag|> \"brave_search.call(query=\\\"the sun\\\")\"";
    let answer = ask(
        &server,
        json!({ "structured_outputs": { "grammar": grammar }, "chat_template_kwargs": { "builtin_tools": ["brave_search"] } }),
    );
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "brave_search");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"query\":\"the sun\"}");
    assert_eq!(choice["finish_reason"], "tool_calls");
}

#[test]
fn tools_and_results_reach_the_model() {
    let server = start(Options::default());
    let tokens = |extra: Value| ask(&server, extra)["usage"]["prompt_tokens"].as_u64().unwrap();
    let short = json!({ "max_tokens": 1 });
    let with = |extra: Value| {
        let mut all = short.clone();
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        tokens(all)
    };
    assert!(with(json!({})) > with(json!({ "tools": [] })) + 100, "the prompt describes the tools");
    assert_eq!(with(json!({ "tool_choice": "none" })), with(json!({ "tools": [] })));
    let call = |id: &str| json!({ "id": id, "type": "function", "function": { "name": "get_weather", "arguments": "{\"city\": \"Oslo\"}" } });
    let messages = |calls: Value, content: Value| {
        json!([
            { "role": "user", "content": "the weather in Oslo?" },
            { "role": "assistant", "content": content, "tool_calls": calls },
            { "role": "tool", "tool_call_id": "a", "content": "sunny" },
            { "role": "tool", "tool_call_id": "b", "content": "rain" },
        ])
    };
    // Llama 3.1's template takes one call a message; two are split.
    let both = with(json!({ "messages": messages(json!([call("a"), call("b")]), Value::Null) }));
    let one = with(json!({ "messages": messages(json!([call("a")]), Value::Null) }));
    assert!(both > one + 20);
}

#[test]
fn the_form_of_an_answer_is_held() {
    let server = start(Options::default());
    let schema = json!({ "type": "object", "properties": { "cat": { "type": "boolean" } }, "required": ["cat"], "additionalProperties": false });
    for extra in [
        json!({ "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } } }),
        json!({ "structured_outputs": { "json": schema } }),
        json!({ "guided_json": schema.to_string() }),
        json!({ "json_schema": schema }),
    ] {
        for path in [CHAT, "/v1/completions"] {
            let mut request = body(extra.clone());
            request["prompt"] = "x".into();
            request.as_object_mut().unwrap().remove("tools");
            let reply = server.post(path, &request);
            assert_eq!(reply.status, 200, "{}", reply.text());
            let choice = &reply.json()["choices"][0];
            let text = choice["text"].as_str().or(choice["message"]["content"].as_str()).unwrap();
            assert!(serde_json::from_str::<Value>(text).unwrap()["cat"].is_boolean());
        }
    }
    let format = json!({ "response_format": { "type": "json_object" }, "max_tokens": 3000, "tools": [] });
    let answer = ask(&server, format)["choices"][0].clone();
    let text = answer["message"]["content"].as_str().unwrap();
    assert!(answer["finish_reason"] == "length" || serde_json::from_str::<Value>(text).unwrap().is_object());
    let regex = json!({ "response_format": { "type": "regex", "regex": "[ab]{3}" }, "tools": [] });
    let text = ask(&server, regex)["choices"][0]["message"]["content"].as_str().unwrap().to_string();
    assert!(text.len() == 3 && text.chars().all(|c| "ab".contains(c)), "{text}");
}

#[test]
fn what_cannot_work_names_its_field() {
    let server = start(Options::default());
    let bad = json!({ "type": "object", "properties": { "a": { "type": "banana" } } });
    let schema =
        |schema: Value| json!({ "type": "json_schema", "json_schema": { "name": "x", "schema": schema } });
    let tool = |function: Value| json!([{ "type": "function", "function": function }]);
    let cases = [
        (json!({ "response_format": schema(bad.clone()), "tools": [] }), "response_format"),
        (json!({ "response_format": schema(json!(3)) }), "response_format.json_schema.schema"),
        (json!({ "response_format": { "type": "yaml" } }), "response_format.type"),
        (json!({ "response_format": 3 }), "response_format.type"),
        (json!({ "structured_outputs": { "regex": "(" }, "tools": [] }), "structured_outputs.regex"),
        (json!({ "structured_outputs": { "choice": [] } }), "structured_outputs.choice"),
        (json!({ "guided_grammar": "start: nowhere", "tools": [] }), "guided_grammar"),
        (json!({ "guided_regex": "a", "guided_choice": ["b"] }), "guided_choice"),
        (json!({ "tools": 3 }), "tools"),
        (json!({ "tools": [{ "type": "retrieval" }] }), "tools[0].type"),
        (json!({ "tools": tool(json!({ "name": "a b" })) }), "tools[0].function.name"),
        (json!({ "tools": tool(json!({ "name": "f", "parameters": 3 })) }), "tools[0].function.parameters"),
        (
            json!({ "tools": tool(json!({ "name": "f", "parameters": bad })), "tool_choice": "required" }),
            "tools",
        ),
        (json!({ "tool_choice": "maybe" }), "tool_choice"),
        (json!({ "tool_choice": { "type": "function", "function": { "name": "g" } } }), "tool_choice"),
        (json!({ "tools": [], "tool_choice": "required" }), "tool_choice"),
        (json!({ "parallel_tool_calls": "no" }), "parallel_tool_calls"),
        (json!({ "response_format": schema(json!({})), "tool_choice": "required" }), "response_format"),
        (json!({ "messages": [{ "role": "assistant", "content": null }] }), "messages[0].content"),
        (
            json!({ "messages": [{ "role": "user", "content": "a", "tool_calls": [] }] }),
            "messages[0].tool_calls",
        ),
        (
            json!({ "messages": [{ "role": "assistant", "tool_calls": [{}] }] }),
            "messages[0].tool_calls[0].function.name",
        ),
    ];
    for (extra, field) in cases {
        let reply = server.post(CHAT, &body(extra));
        let error = reply.json();
        assert_eq!((reply.status, error["error"]["param"].as_str()), (400, Some(field)), "{error}");
        assert!(error["error"]["message"].as_str().unwrap().len() < 500, "{error}");
    }
    assert!(ask(&server, json!({ "max_tokens": 2 }))["choices"].is_array());
}

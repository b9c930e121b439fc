//! What goes wrong, and that the server lives on.

mod client;

use client::{CONTEXT, MODEL, Running, read_reply, start};
use herd_infer::Settings;
use herd_serve::{Options, Server};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const CHAT: &str = "/v1/chat/completions";

fn chat(text: &str, max_tokens: usize) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": max_tokens, "seed": 1 })
}

/// As [`chat`], biased away from all ends, so that the length is known.
fn endless(server: &Running, text: &str, max_tokens: usize) -> Value {
    let specials = server.generator.tokenizer().specials();
    let ends = [specials.end_of_text, specials.eot, specials.eom];
    let bias: serde_json::Map<String, Value> = ends.iter().map(|t| (t.to_string(), json!(-100))).collect();
    json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": max_tokens, "seed": 1, "logit_bias": bias })
}

#[test]
fn a_bad_field_is_named() {
    let server = start(Options::default());
    let user = json!([{ "role": "user", "content": "hi" }]);
    let long = "word ".repeat(CONTEXT);
    let cases = [
        (json!([]), 400, Value::Null),
        (json!({}), 400, json!("messages")),
        (json!({ "messages": [] }), 400, json!("messages")),
        (json!({ "messages": "hi" }), 400, json!("messages")),
        (json!({ "messages": [{ "content": "hi" }] }), 400, json!("messages[0].role")),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }, { "role": "boss", "content": "b" }] }),
            400,
            json!("messages[1].role"),
        ),
        (json!({ "messages": [{ "role": "user", "content": 3 }] }), 400, json!("messages[0].content")),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            400,
            json!("messages[0].content[0]"),
        ),
        (json!({ "messages": [{ "role": "user", "content": long }] }), 400, json!("messages")),
        (json!({ "messages": user, "model": "gpt-4" }), 404, json!("model")),
        (json!({ "messages": user, "model": 4 }), 400, json!("model")),
        (json!({ "messages": user, "temperature": "hot" }), 400, json!("temperature")),
        (json!({ "messages": user, "temperature": 2.5 }), 400, json!("temperature")),
        (json!({ "messages": user, "top_p": 0 }), 400, json!("top_p")),
        (json!({ "messages": user, "n": 0 }), 400, json!("n")),
        (json!({ "messages": user, "n": 1.5 }), 400, json!("n")),
        (json!({ "messages": user, "max_tokens": 0 }), 400, json!("max_tokens")),
        (json!({ "messages": user, "max_completion_tokens": -1 }), 400, json!("max_completion_tokens")),
        (json!({ "messages": user, "max_tokens": 100_000 }), 400, json!("max_tokens")),
        (json!({ "messages": user, "stop": vec!["x"; 10_000] }), 400, json!("stop")),
        (json!({ "messages": user, "stop": "" }), 400, json!("stop")),
        (json!({ "messages": user, "stop": [1] }), 400, json!("stop")),
        (json!({ "messages": user, "stop": "x".repeat(5000) }), 400, json!("stop")),
        (json!({ "messages": user, "seed": "lucky" }), 400, json!("seed")),
        (json!({ "messages": user, "stream": "yes" }), 400, json!("stream")),
        (
            json!({ "messages": user, "stream_options": { "include_usage": true } }),
            400,
            json!("stream_options"),
        ),
        (json!({ "messages": user, "logit_bias": { "a": 1 } }), 400, json!("logit_bias")),
        (json!({ "messages": user, "logit_bias": { "1": 101 } }), 400, json!("logit_bias")),
        (json!({ "messages": user, "top_logprobs": 3 }), 400, json!("top_logprobs")),
        (json!({ "messages": user, "logprobs": true, "top_logprobs": 21 }), 400, json!("top_logprobs")),
    ];
    for (body, status, param) in cases {
        let reply = server.post(CHAT, &body);
        let error = reply.json();
        assert_eq!((reply.status, &error["error"]["param"]), (status, &param), "{error}");
        assert!(error["error"]["message"].as_str().is_some_and(|m| m.len() < 400), "{error}");
        assert!(error["error"]["type"].is_string());
    }
    let overflow = server.post(CHAT, &json!({ "messages": user, "max_tokens": CONTEXT })).json();
    assert_eq!(overflow["error"]["code"], "context_length_exceeded");
    for (body, param) in [
        (json!({}), "prompt"),
        (json!({ "prompt": 7 }), "prompt"),
        (json!({ "prompt": [[1], 7] }), "prompt"),
        (json!({ "prompt": [1, -7] }), "prompt"),
        (json!({ "prompt": [1, 99_999] }), "prompt"),
        (json!({ "prompt": [] }), "prompt"),
        (json!({ "prompt": "a", "best_of": 3 }), "best_of"),
        (json!({ "prompt": "a", "suffix": "b" }), "suffix"),
    ] {
        let reply = server.post("/v1/completions", &body);
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some(param)), "{body}");
    }
    assert_eq!(server.post(CHAT, &chat("hi", 2)).status, 200);
}

#[test]
fn bytes_that_are_no_request_do_no_harm() {
    let server = start(Options { max_body_bytes: 1 << 20, ..Options::default() });
    let deep = "[".repeat(100_000);
    let cases: [(&[u8], u16, &str); 6] = [
        (b"", 400, "JSON"),
        (b"{\"messages\": [", 400, "JSON"),
        (b"\xff\xfe{}", 400, "UTF-8 (byte 0)"),
        (b"{\"prompt\": \"\\ud800\"}", 400, "JSON"),
        (deep.as_bytes(), 400, "JSON"),
        (&vec![b' '; 100 << 20], 413, "larger than 1048576 bytes"),
    ];
    for (body, status, part) in cases {
        for path in [CHAT, "/v1/completions"] {
            let reply = server.request("POST", path, "", body);
            let message = reply.json()["error"]["message"].as_str().unwrap().to_string();
            assert_eq!(reply.status, status, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
    assert_eq!(server.post(CHAT, &chat("hi", 2)).status, 200);
}

/// What the server sends until it closes the connection.
fn until_closed(mut stream: &TcpStream) -> String {
    let mut sent = Vec::new();
    // A connection that is closed with something unread ends with an error.
    let _ = stream.read_to_end(&mut sent);
    String::from_utf8(sent).unwrap()
}

#[test]
fn a_request_that_never_ends_is_let_go() {
    let server = start(Options { request_seconds: 1, ..Options::default() });
    let connect = || TcpStream::connect(server.address).unwrap();
    let silent = connect();
    let mut half = connect();
    half.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nX-A: ").unwrap();
    let mut bodiless = connect();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{";
    bodiless.write_all(head.as_bytes()).unwrap();
    // Several requests on one connection, which is closed when no further one comes.
    let mut kept = connect();
    for _ in 0..3 {
        kept.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut reply = [0; 512];
        let length = kept.read(&mut reply).unwrap();
        assert!(reply[..length].starts_with(b"HTTP/1.1 200"));
    }
    // An answer may take longer than its request.
    let mut body = endless(&server, "hi", 3900);
    body["stream"] = true.into();
    let answer = server.send("POST", CHAT, "", body.to_string().as_bytes());
    assert_eq!([&silent, &half, &kept].map(until_closed), ["", "", ""]);
    assert!(until_closed(&bodiless).starts_with("HTTP/1.1 408"));
    let chunks = read_reply(answer).events();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_body_that_says_that_it_is_too_large_is_not_waited_for() {
    let server = start(Options::default());
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{expect}Content-Length: 1000000000000\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut status = String::new();
        BufReader::new(&stream).read_line(&mut status).unwrap();
        assert_eq!(status, "HTTP/1.1 413 Payload Too Large\r\n");
    }
    // The connection is there for the next request if the body was thrown away.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let large = Options::default().max_body_bytes + 1;
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {large}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b' '; large]).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let replies = until_closed(&stream);
    assert!(replies.starts_with("HTTP/1.1 413") && replies.contains("HTTP/1.1 200"), "{replies}");
    // A body in chunks does not say how large it is.
    let mut stream = TcpStream::connect(server.address).unwrap();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{large:x}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b' '; large]).unwrap();
    let mut status = String::new();
    BufReader::new(&stream).read_line(&mut status).unwrap();
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large\r\n");
}

#[test]
fn wrong_addresses_methods_and_hosts_are_refused() {
    let server = start(Options::default());
    assert_eq!(server.get("/v1/unknown").json()["error"]["code"], "unknown_url");
    let reply = server.get(CHAT);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (405, &json!("method_not_allowed")));
    let mut stream = std::net::TcpStream::connect(server.address).unwrap();
    let head = "GET /v1/models HTTP/1.1\r\nHost: evil.example:80\r\nConnection: close\r\n\r\n";
    std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
    assert_eq!(read_reply(stream).status, 403, "DNS rebinding");
}

#[test]
fn keys_are_asked_for_where_there_are_keys() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys.txt");
    std::fs::write(&keys, "# ours\n\nfirst-key\nsecond\n").unwrap();
    let server = start(Options { keys: Some(keys.clone()), ..Options::default() });
    let with = |key: &str| {
        let body = chat("hi", 2).to_string();
        server.request("POST", CHAT, &format!("Authorization: Bearer {key}\r\n"), body.as_bytes())
    };
    assert_eq!(server.post(CHAT, &chat("hi", 2)).json()["error"]["code"], "invalid_api_key");
    let statuses = ["first-key", "second", "first-ke", "second2", "secondsecond", ""].map(|k| with(k).status);
    assert_eq!(statuses, [200, 200, 401, 401, 401, 401]);
    for path in ["/health", "/", "/openapi.json"] {
        assert_eq!(server.get(path).status, 200, "{path} needs no key");
    }
    for path in ["/metrics", "/v1/models", "/models", "/slots"] {
        assert_eq!(server.get(path).status, 401, "{path}");
        let reply = server.request("GET", path, "Authorization: Bearer second\r\n", b"");
        assert_eq!(reply.status, 200, "{path}");
        for (headers, status) in [
            ("X-Api-Key: second\r\n", 200),
            ("x-api-key: third\r\n", 401),
            ("Authorization: Bearer third\r\nX-Api-Key: second\r\n", 401),
        ] {
            assert_eq!(server.request("GET", path, headers, b"").status, status, "{path} {headers}");
        }
    }

    std::fs::write(&keys, "# none\n").unwrap();
    let options = Options { port: 0, keys: Some(keys), ..Options::default() };
    let error = Server::bind(server.generator.clone(), MODEL, &options).err().unwrap().to_string();
    assert!(error.contains("keys.txt") && error.contains("one key a line"), "{error}");
}

#[test]
fn a_full_queue_answers_429_and_says_when_to_come_back() {
    let generation = Settings { max_sequences: 1, max_waiting: 2, ..Settings::default() };
    let server = start(Options { generation, ..Options::default() });
    let body = endless(&server, "hi", 3900).to_string();
    let count = || {
        let name = "herd_requests_total{path=\"/v1/chat/completions\",status=\"429\"}";
        server.get("/metrics").text().contains(name)
    };
    let mut streams = Vec::new();
    while !count() {
        streams.push(server.send("POST", CHAT, "", body.as_bytes()));
    }
    let mut refused = 0;
    for stream in &streams {
        stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        let mut status = [0; 12];
        if stream.peek(&mut status).is_ok() && status.ends_with(b"429") {
            let reply = read_reply(stream.try_clone().unwrap());
            assert!(reply.headers.to_lowercase().contains("retry-after: 1"));
            let error = &reply.json()["error"];
            assert_eq!(error["code"], "queue_full");
            assert!(error["message"].as_str().unwrap().contains("3 requests have no token"), "{error}");
            refused += 1;
        }
    }
    assert!(refused >= 1);
    drop(streams);
    server.settle();
    assert_eq!(server.post(CHAT, &chat("hi", 2)).status, 200);
}

#[test]
fn a_client_that_hangs_up_frees_its_pages() {
    let server = start(Options::default());
    for stream in [true, false] {
        let before = server.metric("herd_completion_tokens_total");
        let mut body = endless(&server, "hi", 3900);
        body["stream"] = stream.into();
        let connection = server.send("POST", CHAT, "", body.to_string().as_bytes());
        if stream {
            let mut lines = BufReader::new(connection.try_clone().unwrap()).lines();
            assert!(lines.any(|l| l.unwrap().contains("\"content\"")));
        }
        while server.metric("herd_answers_running") == 0 {
            std::thread::yield_now();
        }
        assert!(server.metric("herd_cache_pages_used") > 0);
        drop(connection);
        server.settle();
        assert_eq!(server.metric("herd_cache_pages_used"), 0);
        let drawn = server.metric("herd_completion_tokens_total") - before;
        assert!(drawn < 3900, "cancelled, not finished (stream: {stream})");
    }
}

#[test]
fn shutting_down_finishes_what_runs() {
    let server = start(Options::default());
    let mut body = endless(&server, "hi", 1500);
    body["stream"] = true.into();
    let connection = server.send("POST", CHAT, "", body.to_string().as_bytes());
    while server.metric("herd_answers_running") == 0 {
        std::thread::yield_now();
    }
    server.stop();
    let chunks = read_reply(connection).events();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "length");
    drop(server);
}

#[test]
fn a_crowd_of_which_some_leave_costs_no_page_and_no_error() {
    let server = start(Options {
        generation: Settings { cache_tokens: 4096, ..Settings::default() },
        ..Options::default()
    });
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if i >= 320 {
                        return;
                    }
                    let mut body = endless(&server, &"the dog ".repeat(i % 23), 1 + i * 7 % 50);
                    body["stream"] = (i.is_multiple_of(2)).into();
                    let connection = server.send("POST", CHAT, "", body.to_string().as_bytes());
                    if i % 20 == 19 {
                        continue;
                    }
                    let reply = read_reply(connection);
                    assert_eq!(reply.status, 200, "{}", reply.text());
                    let end = if i.is_multiple_of(2) { reply.events().pop().unwrap() } else { reply.json() };
                    assert_eq!(end["choices"][0]["finish_reason"], "length");
                }
            });
        }
    });
    server.settle();
    assert_eq!(server.metric("herd_cache_pages_used"), 0);
}

#[test]
fn an_address_that_is_taken_is_named_with_the_remedy() {
    let server = start(Options::default());
    let options = Options { port: server.address.port(), ..Options::default() };
    let error = Server::bind(server.generator.clone(), MODEL, &options).err().unwrap().to_string();
    assert!(error.contains(&server.address.to_string()) && error.contains("--port"), "{error}");
}

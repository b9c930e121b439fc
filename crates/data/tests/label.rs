//! Labelling by an endpoint on loopback that behaves like OpenAI's, well and badly; and a classifier that learns from
//! the labels.

use herd_data::classifier::{self, read_labelled, train};
use herd_data::label::{Endpoint, Error, Settings, label};
use herd_run::Context;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Answers the n-th request (from 0) with a status and a body.
type Answers = dyn Fn(usize, &Value) -> (u16, Value) + Send + Sync;

struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
    headers: Arc<Mutex<String>>,
}

fn serve(answers: Arc<Answers>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (requests, headers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
    let (count, seen) = (requests.clone(), headers.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answers, count, seen) = (answers.clone(), count.clone(), seen.clone());
            std::thread::spawn(move || respond(stream, &*answers, &count, &seen));
        }
    });
    Server { url, requests, headers }
}

fn respond(mut stream: TcpStream, answers: &Answers, count: &AtomicUsize, seen: &Mutex<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() {
        return;
    }
    *seen.lock().unwrap() = head;
    let (status, reply) =
        answers(count.fetch_add(1, Ordering::SeqCst), &serde_json::from_slice(&body).unwrap());
    let reply = reply.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nretry-after: 0\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{reply}",
        reply.len()
    );
}

fn says(content: &str) -> (u16, Value) {
    let usage = json!({ "prompt_tokens": 100, "completion_tokens": 5 });
    (200, json!({ "choices": [{ "message": { "role": "assistant", "content": content } }], "usage": usage }))
}

/// What the stub finds good: texts with a digit of three.
fn judge(body: &Value) -> (u16, Value) {
    let text = body["messages"][1]["content"].as_str().unwrap();
    says(&json!({ "label": if text.contains("history") { "good" } else { "bad" } }).to_string())
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.into(),
        model: "judge".into(),
        key: Some("secret".into()),
        retries: 3,
        timeout: Duration::from_secs(10),
        max_tokens: 20,
        schema: true,
    }
}

fn settings() -> Settings {
    Settings {
        criteria: "A document is good if it tells history.".into(),
        labels: vec!["good".into(), "bad".into()],
        at_once: 4,
        max_chars: 500,
        prices: (2.0, 10.0),
        max_cost: None,
        text_column: "text".into(),
    }
}

fn documents(folder: &Path, count: usize) -> std::path::PathBuf {
    let path = folder.join("documents.jsonl");
    let lines: Vec<String> = (0..count)
        .map(|n| {
            let kind = if n % 3 == 0 { "the history of the old town" } else { "buy shoes at a low price" };
            json!({ "text": format!("page {n} about {kind} and number {}", n * 7 % 13) }).to_string()
        })
        .collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

#[test]
fn documents_are_labelled_in_order_through_failures_that_pass() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (documents(dir.path(), 60), dir.path().join("labels.jsonl"));
    // Every fourth text is refused twice and answered badly once before it has its label.
    let asked: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let server = serve(Arc::new(move |_, body: &Value| {
        assert_eq!(body["model"], "judge");
        let schema = &body["response_format"]["json_schema"]["schema"];
        assert_eq!(schema["properties"]["label"]["enum"], json!(["good", "bad"]));
        assert!(body["messages"][0]["content"].as_str().unwrap().contains("tells history"));
        let text = body["messages"][1]["content"].as_str().unwrap().to_string();
        if text.starts_with("page 7 ") && text.len() > 20 {
            let error = json!({ "error": { "code": "context_length_exceeded", "message": "too long" } });
            return (400, error);
        }
        let hard = text.len().is_multiple_of(4);
        let mut asked = asked.lock().unwrap();
        let times = asked.entry(text).or_default();
        *times += 1;
        match *times {
            1 if hard => (429, json!({ "error": { "message": "too many" } })),
            2 if hard => (503, json!({})),
            3 if hard => says("I would rather not say."),
            _ => judge(body),
        }
    }));
    let summary = label(&input, &out, &endpoint(&server.url), &settings(), &Context::quiet()).unwrap();
    assert_eq!((summary.documents, summary.labelled, summary.failed), (60, 60, 0));
    assert_eq!((summary.labels["good"], summary.labels["bad"]), (20, 40));
    assert!(summary.requests > 60 && summary.requests as usize == server.requests.load(Ordering::SeqCst));
    // Answers that were no label were paid for too.
    assert!(summary.prompt_tokens > 6000, "{}", summary.prompt_tokens);
    let cost = (summary.prompt_tokens as f64 * 2.0 + summary.completion_tokens as f64 * 10.0) / 1e6;
    assert!((summary.cost - cost).abs() < 1e-12);
    assert!(server.headers.lock().unwrap().to_lowercase().contains("authorization: bearer secret"));
    let labels = read_labelled(&out, "text", "label").unwrap();
    for (n, labelled) in labels.iter().enumerate() {
        assert!(labelled.text.starts_with(&format!("page {n} ")), "in the order of the documents");
        assert_eq!(labelled.label, if n % 3 == 0 { "good" } else { "bad" });
    }
    assert!(!dir.path().join("labels.jsonl.part").exists());
}

#[test]
fn a_run_that_was_stopped_continues_and_asks_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (documents(dir.path(), 40), dir.path().join("labels.jsonl"));
    let server = serve(Arc::new(|n, body: &Value| match n {
        0..20 => judge(body),
        20 => (401, json!({ "error": "the key has expired" })),
        _ => judge(body),
    }));
    let mut one = settings();
    one.at_once = 1;
    let error = label(&input, &out, &endpoint(&server.url), &one, &Context::quiet()).unwrap_err();
    assert!(error.to_string().contains("401") && error.to_string().contains("key"), "{error}");
    assert!(!out.exists());
    // A kill in the middle of a line.
    let part = dir.path().join("labels.jsonl.part");
    let mut torn = std::fs::read(&part).unwrap();
    torn.extend(b"{\"key\":\"abc");
    std::fs::write(&part, torn).unwrap();

    let mut other = settings();
    other.criteria.push_str(" Or geography.");
    let error = label(&input, &out, &endpoint(&server.url), &other, &Context::quiet()).unwrap_err();
    assert!(matches!(error, Error::OtherCriteria(_)), "{error}");

    let summary = label(&input, &out, &endpoint(&server.url), &one, &Context::quiet()).unwrap();
    assert_eq!((summary.labelled, summary.requests), (40, 20));
    assert_eq!(summary.prompt_tokens, 4000, "those of the first run too");
    assert_eq!(server.requests.load(Ordering::SeqCst), 41);
}

#[test]
fn money_and_silence_end_a_run_with_words() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (documents(dir.path(), 40), dir.path().join("labels.jsonl"));
    let server = serve(Arc::new(|_, body: &Value| judge(body)));
    let mut poor = settings();
    poor.max_cost = Some(0.002);
    let error = label(&input, &out, &endpoint(&server.url), &poor, &Context::quiet()).unwrap_err();
    assert!(matches!(error, Error::Spent { .. }) && error.to_string().contains("0.002"), "{error}");
    assert!(server.requests.load(Ordering::SeqCst) < 20);

    let silent = serve(Arc::new(|_, _: &Value| says("no idea")));
    let error =
        label(&input, &dir.path().join("b.jsonl"), &endpoint(&silent.url), &settings(), &Context::quiet());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("none of 40") && error.contains("no idea"), "{error}");
    let nobody = Endpoint { retries: 0, ..endpoint("http://127.0.0.1:1/v1") };
    let error =
        label(&input, &dir.path().join("c.jsonl"), &nobody, &settings(), &Context::quiet()).unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn a_classifier_learns_what_the_model_meant() {
    let dir = tempfile::tempdir().unwrap();
    let (input, out) = (documents(dir.path(), 600), dir.path().join("labels.jsonl"));
    let server = serve(Arc::new(|_, body: &Value| judge(body)));
    label(&input, &out, &endpoint(&server.url), &settings(), &Context::quiet()).unwrap();
    let examples = read_labelled(&out, "text", "label").unwrap();
    let settings = classifier::Settings { dimension: 8, epochs: 3, buckets: 2000, ..Default::default() };
    let trained = train(&examples, &settings, &Context::quiet()).unwrap();
    let good = trained.evaluation.unwrap().labels.into_iter().find(|l| l.label == "good").unwrap();
    assert!(good.auc.value > 0.99, "{good:?}");
}

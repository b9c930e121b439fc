//! A server over a tiny random model, and a plain HTTP client that sees every byte.
#![allow(dead_code, reason = "every test file uses a part")]

use herd_infer::Generator;
use herd_run::Context;
use herd_serve::{Options, Server};
use herd_tokenizer::Tokenizer;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

#[path = "../../../infer/tests/tiny/mod.rs"]
pub mod tiny;

pub const CONTEXT: usize = 4096;
pub const MODEL: &str = "tiny";

/// Stops with the test.
pub struct Running {
    pub address: SocketAddr,
    pub generator: Generator,
    ctx: Context,
    thread: Option<JoinHandle<()>>,
}

pub fn start(options: Options) -> Running {
    start_with(tiny::tokenizer(), options)
}

pub fn start_with(tokenizer: Tokenizer, options: Options) -> Running {
    let (llama, params) = tiny::model_of_context(&tokenizer, CONTEXT);
    let generator = Generator::new(llama, params, tokenizer, options.generation.clone()).unwrap();
    let options = Options { port: 0, ..options };
    let server = Server::bind(generator.clone(), MODEL, &options).unwrap();
    let address = server.address().unwrap();
    let ctx = Context::quiet();
    let thread = {
        let ctx = ctx.clone();
        std::thread::spawn(move || server.run(&ctx).unwrap())
    };
    Running { address, generator, ctx, thread: Some(thread) }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ctx.stop.request();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
    pub fn json(&self) -> Value {
        serde_json::from_str(self.text()).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    /// The objects of a stream, which must end with [DONE].
    pub fn events(&self) -> Vec<Value> {
        let lines: Vec<&str> = self.text().split("\n\n").filter(|l| !l.is_empty()).collect();
        let (last, chunks) = lines.split_last().unwrap();
        assert_eq!(*last, "data: [DONE]");
        chunks.iter().map(|l| serde_json::from_str(l.strip_prefix("data: ").unwrap()).unwrap()).collect()
    }
}

impl Running {
    pub fn stop(&self) {
        self.ctx.stop.request();
    }

    /// Sends a request and leaves the answer to be read.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has seen enough may close before the end of a large body.
        let _ = stream.write_all(body);
        stream
    }

    pub fn request(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
        read_reply(self.send(method, path, headers, body))
    }

    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.request("POST", path, "Content-Type: application/json\r\n", body.to_string().as_bytes())
    }

    /// A value from /metrics.
    pub fn metric(&self, name: &str) -> u64 {
        let reply = self.get("/metrics");
        let line = reply.text().lines().find(|l| l.strip_prefix(name).is_some_and(|r| r.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until nothing is left to do.
    pub fn settle(&self) {
        while self.metric("herd_answers_running") > 0 || self.metric("herd_requests_waiting") > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

pub fn read_reply(stream: TcpStream) -> Reply {
    let mut reader = BufReader::new(stream);
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut headers).unwrap() > 0, "the connection closed after {headers:?}");
    }
    let status = headers[9..12].parse().unwrap();
    let mut body = Vec::new();
    if headers.to_lowercase().contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut part = vec![0; size + 2];
            reader.read_exact(&mut part).unwrap();
            if size == 0 {
                break;
            }
            body.extend_from_slice(&part[..size]);
        }
    } else {
        reader.read_to_end(&mut body).unwrap();
    }
    Reply { status, headers, body }
}

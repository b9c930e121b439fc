//! Extracts the main text of HTML files: one JSON object a file, with the time that extraction took.
//!
//!     extract FILE...

use herd_data::extract::extract;
use std::time::Instant;

fn main() {
    for file in std::env::args().skip(1) {
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => {
                eprintln!("{file}: {error}");
                std::process::exit(1);
            }
        };
        let source = String::from_utf8_lossy(&bytes);
        let rounds = 5;
        let started = Instant::now();
        let mut page = extract(&source);
        for _ in 1..rounds {
            page = extract(&source);
        }
        let milliseconds = started.elapsed().as_secs_f64() * 1e3 / rounds as f64;
        let metadata = page.metadata;
        let line = serde_json::json!({
            "file": file, "text": page.text, "title": metadata.title, "date": metadata.date,
            "language": metadata.language, "milliseconds": milliseconds,
        });
        println!("{line}");
    }
}

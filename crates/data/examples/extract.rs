//! Extracts the main text of HTML files as `herd data extract` does: one JSON object a file, with the mean time of five
//! runs.
//!
//!     extract FILE...

use herd_data::page_file::extract_file;
use std::path::Path;

const ROUNDS: u32 = 5;

fn main() {
    for file in std::env::args().skip(1) {
        let mut total = 0.0;
        let mut found = None;
        for _ in 0..ROUNDS {
            match extract_file(Path::new(&file), "") {
                Ok(read) => {
                    total += read.time.as_secs_f64();
                    found = Some(read.page);
                }
                Err(error) => {
                    eprintln!("{error}");
                    std::process::exit(1);
                }
            }
        }
        let page = found.unwrap_or_default();
        let line = serde_json::json!({
            "file": file, "text": page.text, "title": page.metadata.title, "date": page.metadata.date,
            "author": page.metadata.author, "language": page.metadata.language, "page_type": page.page_type,
            "milliseconds": 1e3 * total / f64::from(ROUNDS),
        });
        println!("{line}");
    }
}

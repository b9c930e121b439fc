//! Any bytes as a page: its encoding found, parsed, and its main text extracted.
#![no_main]

use herd_data::extract::extract;
use herd_data::response::{Http, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (html, _) = decode(bytes, &Http::bare(bytes));
    let page = extract(&html, "https://example.org/a/page");
    // Entities are never longer than what they stand for, but line breaks may be added around blocks.
    assert!(page.text.len() <= 4 * html.len() + 16, "{} bytes of text from {}", page.text.len(), html.len());
});

//! Any bytes as a web archive (WARC; plain, gzip or zstd), read to the end as the stage `data` does: responses, bodies, encodings.
#![no_main]

use herd_data::archive::Archive;
use herd_data::response::{decode, is_binary, parse};
use libfuzzer_sys::fuzz_target;

const LIMIT: u64 = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("a temporary file");
    let archive = Archive::open(file.path(), LIMIT).expect("a file that can be read");
    for response in archive {
        let Ok(response) = response else { continue };
        assert!(response.http.len() as u64 <= LIMIT);
        assert!(response.offset <= bytes.len() as u64);
        let Some(http) = parse(&response.http) else { continue };
        http.media_type();
        if let Ok(body) = http.decoded_body(LIMIT as usize) {
            // What is not encoded is as long as the record, which is bounded above.
            assert!(body.bytes.len() <= LIMIT as usize);
            if !is_binary(&body.bytes) {
                decode(&body.bytes, &http);
            }
        }
    }
});

//! Reads archives and counts: what reading alone costs. `read_archives FILE...` prints one JSON line.

use herd_data::archive::Archive;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let began = Instant::now();
    let (mut responses, mut bytes) = (0u64, 0u64);
    for file in std::env::args().skip(1) {
        for response in Archive::open(Path::new(&file), 64 << 20)? {
            let response = response
                .map_err(|place| format!("{}: byte {}: {}", place.file, place.offset, place.problem))?;
            responses += 1;
            bytes += response.http.len() as u64;
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(r#"{{"responses": {responses}, "bytes": {bytes}, "seconds": {seconds}}}"#);
    Ok(())
}

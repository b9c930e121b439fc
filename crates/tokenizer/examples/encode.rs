//! Encodes files and measures it: `encode TOKENIZER FILE... [--ids FOLDER] [--save FOLDER] [--repeat N]`.
//!
//! Prints one JSON object per file: bytes, tokens, and CPU seconds of this thread for the first encoding (cold: no
//! piece was seen before) and the best of N further ones (warm). `--ids` writes the ids as little-endian u32, for
//! comparison with other tokenizers; `--save` writes the tokenizer as `tokenizer.json`.

use herd_tokenizer::Tokenizer;
use rustix::time::{ClockId, clock_gettime};
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: encode TOKENIZER FILE... [--ids FOLDER] [--save FOLDER] [--repeat N]")?;
    let (mut files, mut ids_folder, mut repeat) = (Vec::new(), None, 5);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--ids" => ids_folder = Some(PathBuf::from(value()?)),
            "--save" => Tokenizer::load(&path)?.save(value()?)?,
            "--repeat" => repeat = value()?.parse()?,
            _ => files.push(PathBuf::from(argument)),
        }
    }
    for file in files {
        let text = String::from_utf8_lossy(&std::fs::read(&file)?).into_owned();
        // A tokenizer of its own for each file: nothing is warm.
        let tokenizer = Tokenizer::load(&path)?;
        let (ids, cold) = timed(|| tokenizer.encode(&text));
        let warm = (0..repeat).map(|_| timed(|| tokenizer.encode(&text)).1).fold(f64::INFINITY, f64::min);
        println!(
            r#"{{"file": {file:?}, "bytes": {}, "tokens": {}, "seconds_cold": {cold:.6}, "seconds_warm": {warm:.6}}}"#,
            text.len(),
            ids.len()
        );
        if let Some(folder) = &ids_folder {
            let name = file.file_name().unwrap_or_default();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            std::fs::write(folder.join(name).with_added_extension("ids"), bytes)?;
        }
    }
    Ok(())
}

/// The value and the CPU seconds it took this thread; what other programs take does not count.
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let seconds = || {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
    };
    let start = seconds();
    let value = work();
    (value, seconds() - start)
}

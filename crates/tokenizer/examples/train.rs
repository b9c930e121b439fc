//! Trains a tokenizer on text files and measures it: `train VOCAB_SIZE OUT FILE...`.
//!
//! Prints one JSON object: bytes, tokens in the vocabulary, distinct pieces, and wall seconds for counting and learning.

use herd_run::Context;
use herd_tokenizer::train::{Settings, Trainer};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = || arguments.next().ok_or("usage: train VOCAB_SIZE OUT FILE...");
    let settings = Settings { vocab_size: argument()?.parse()?, ..Settings::default() };
    let out = argument()?;
    let (mut trainer, mut bytes) = (Trainer::new(settings)?, 0);
    let start = Instant::now();
    for file in arguments {
        let text = String::from_utf8_lossy(&std::fs::read(file)?).into_owned();
        // Lines as documents, so that the file is counted by all threads.
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        trainer.feed(&lines);
        bytes += text.len();
    }
    let (counted, pieces) = (start.elapsed().as_secs_f64(), trainer.distinct_pieces());
    let tokenizer = trainer.finish(&Context::quiet())?;
    let learned = start.elapsed().as_secs_f64() - counted;
    println!(
        r#"{{"bytes": {bytes}, "vocab_size": {}, "distinct_pieces": {pieces}, "seconds_counting": {counted:.3}, "seconds_learning": {learned:.3}}}"#,
        tokenizer.vocab_size()
    );
    Ok(tokenizer.save(out)?)
}

//! `herd tokenizer encode|decode|train|extend|bench|save`: a tokenizer by itself.

use crate::cli::TokenizerCommand;
use anyhow::Context as _;
use herd_run::{Context, atomic};
use herd_tokenizer::Tokenizer;
use herd_tokenizer::train::{Settings, Trainer};
use serde::Serialize;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Times that a warm encoding is measured.
const WARM_ROUNDS: usize = 5;

/// Does what the subcommand says.
pub fn run(command: TokenizerCommand, ctx: &Context) -> anyhow::Result<()> {
    match command {
        TokenizerCommand::Encode { tokenizer, file, special, out } => {
            let (tokenizer, text) = (Tokenizer::load(tokenizer)?, text(file.as_deref())?);
            let ids = if special { tokenizer.encode_with_special(&text) } else { tokenizer.encode(&text) };
            match out {
                Some(path) => Ok(atomic::write(&path, little_endian(&ids))?),
                None => {
                    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
                    Ok(writeln!(std::io::stdout(), "{}", words.join(" "))?)
                }
            }
        }
        TokenizerCommand::Decode { tokenizer, file } => {
            let tokenizer = Tokenizer::load(tokenizer)?;
            let ids = ids(&text(file.as_deref())?, tokenizer.vocab_size())?;
            Ok(std::io::stdout().write_all(&tokenizer.decode_bytes(&ids))?)
        }
        TokenizerCommand::Train { out, files, vocab_size, json } => {
            let start = Instant::now();
            let (trainer, bytes) = fed(vocab_size, &files, ctx)?;
            let (seconds_counting, distinct_pieces) =
                (start.elapsed().as_secs_f64(), trainer.distinct_pieces());
            let tokenizer = trainer.finish(ctx)?;
            let seconds_learning = start.elapsed().as_secs_f64() - seconds_counting;
            tokenizer.save(&out)?;
            let vocab_size = tokenizer.vocab_size();
            let trained = Trained { bytes, vocab_size, distinct_pieces, seconds_counting, seconds_learning };
            match json {
                true => println!("{}", serde_json::to_string(&trained)?),
                false => println!("{vocab_size} tokens from {bytes} bytes: {}", out.display()),
            }
            Ok(())
        }
        TokenizerCommand::Extend { base, out, files, vocab_size, json } => {
            let base = Tokenizer::load(base)?;
            let extended = fed(vocab_size, &files, ctx)?.0.extend(&base, ctx)?;
            extended.save(&out)?;
            for file in &files {
                let text = text(Some(file))?;
                let characters = text.chars().count() as f64;
                let of =
                    |tokenizer: &Tokenizer| characters / tokenizer.encode_parallel(&text).len().max(1) as f64;
                let gain = Gain { file: file.display().to_string(), before: of(&base), after: of(&extended) };
                match json {
                    true => println!("{}", serde_json::to_string(&gain)?),
                    false => println!(
                        "{}: {:.2} characters a token, before {:.2}",
                        gain.file, gain.after, gain.before
                    ),
                }
            }
            if !json {
                println!("{} tokens: {}", extended.vocab_size(), out.display());
            }
            Ok(())
        }
        TokenizerCommand::Bench { tokenizer, files, json, ids } => {
            for file in files {
                ctx.stop.check()?;
                let (measured, tokens) = measure(&tokenizer, &file)?;
                if let Some(folder) = &ids {
                    let name = file.file_name().unwrap_or_default();
                    let path = folder.join(name).with_added_extension("ids");
                    atomic::write(&path, little_endian(&tokens))?;
                }
                match json {
                    true => println!("{}", serde_json::to_string(&measured)?),
                    false => println!("{measured}"),
                }
            }
            Ok(())
        }
        TokenizerCommand::Save { tokenizer, out } => Ok(Tokenizer::load(tokenizer)?.save(out)?),
    }
}

/// A trainer that has seen some files, and how many bytes they hold.
fn fed(vocab_size: usize, files: &[PathBuf], ctx: &Context) -> anyhow::Result<(Trainer, usize)> {
    let settings = Settings { vocab_size, ..Settings::default() };
    let (mut trainer, mut bytes) = (Trainer::new(settings)?, 0);
    for file in files {
        ctx.stop.check()?;
        let text = text(Some(file))?;
        // Lines as documents, so that a file is counted by all threads.
        trainer.feed(&text.split_inclusive('\n').collect::<Vec<_>>());
        bytes += text.len();
    }
    Ok((trainer, bytes))
}

/// Characters per token with the vocabulary before and after.
#[derive(Serialize)]
struct Gain {
    file: String,
    before: f64,
    after: f64,
}

#[derive(Serialize)]
struct Trained {
    bytes: usize,
    vocab_size: usize,
    distinct_pieces: usize,
    seconds_counting: f64,
    seconds_learning: f64,
}

#[derive(Serialize)]
struct Measured {
    file: String,
    bytes: usize,
    tokens: usize,
    threads: usize,
    seconds_cold: f64,
    seconds_warm: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |seconds: f64| self.bytes as f64 / 1e6 / seconds;
        write!(
            out,
            "{}: {} bytes, {} tokens ({:.2} bytes each), {:.1} MB/s cold, {:.1} MB/s warm",
            self.file,
            self.bytes,
            self.tokens,
            self.bytes as f64 / self.tokens.max(1) as f64,
            rate(self.seconds_cold),
            rate(self.seconds_warm)
        )
    }
}

/// Encodes a file with a tokenizer of its own, for which everything is new.
fn measure(tokenizer: &Path, file: &Path) -> anyhow::Result<(Measured, Vec<u32>)> {
    let text = text(Some(file))?;
    let tokenizer = Tokenizer::load(tokenizer)?;
    let timed = || {
        let start = Instant::now();
        let ids = tokenizer.encode_parallel(&text);
        (ids, start.elapsed().as_secs_f64())
    };
    let (ids, seconds_cold) = timed();
    let seconds_warm = (0..WARM_ROUNDS).map(|_| timed().1).fold(f64::INFINITY, f64::min);
    let measured = Measured {
        file: file.display().to_string(),
        bytes: text.len(),
        tokens: ids.len(),
        threads: rayon::current_num_threads(),
        seconds_cold,
        seconds_warm,
    };
    Ok((measured, ids))
}

/// A text file, or standard input. Bytes that are not UTF-8 become U+FFFD.
fn text(file: Option<&Path>) -> anyhow::Result<String> {
    let bytes = match file {
        Some(path) => atomic::read(path)?,
        None => {
            let mut bytes = Vec::new();
            std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
            bytes
        }
    };
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// The numbers in a text.
fn ids(text: &str, vocab_size: usize) -> anyhow::Result<Vec<u32>> {
    let words = text.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    words
        .map(|word| match word.parse() {
            Ok(id) if (id as usize) < vocab_size => Ok(id),
            _ => anyhow::bail!("{word} is not a token id; this vocabulary has 0 to {}", vocab_size - 1),
        })
        .collect()
}

fn little_endian(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

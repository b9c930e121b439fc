//! `herd tokenizer encode|decode|train|extend|bench|shards|save`: a tokenizer by itself.

use crate::cli::TokenizerCommand;
use anyhow::Context as _;
use herd_data::shards;
use herd_run::{Context, Stop, atomic};
use herd_tokenizer::train::{Settings, Trainer};
use herd_tokenizer::{TokenParts, Tokenizer};
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
        TokenizerCommand::Train { out, files, vocab_size, memory, json } => {
            let start = Instant::now();
            let (trainer, bytes) = fed(vocab_size, &files, memory, &out, ctx)?;
            let (seconds_counting, distinct_pieces, spills) =
                (start.elapsed().as_secs_f64(), trainer.distinct_pieces()?, trainer.spills());
            let tokenizer = trainer.finish(ctx)?;
            let seconds_learning = start.elapsed().as_secs_f64() - seconds_counting;
            tokenizer.save(&out)?;
            let vocab_size = tokenizer.vocab_size();
            let peak_memory = herd_run::memory::peak_resident();
            let trained = Trained {
                bytes,
                vocab_size,
                distinct_pieces,
                seconds_counting,
                seconds_learning,
                spills,
                peak_memory,
            };
            match json {
                true => println!("{}", serde_json::to_string(&trained)?),
                false => println!("{vocab_size} tokens from {bytes} bytes: {}", out.display()),
            }
            Ok(())
        }
        TokenizerCommand::Extend { base, out, files, vocab_size, memory, json } => {
            let base = Tokenizer::load(base)?;
            let extended = fed(vocab_size, &files, memory, &out, ctx)?.0.extend(&base, ctx)?;
            extended.save(&out)?;
            for file in &files {
                let gain = gain(&base, &extended, file, memory)?;
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
                let (measured, tokens) = measure(&tokenizer, &file, &ctx.stop)?;
                if let Some(folder) = &ids {
                    let name = file.file_name().unwrap_or_default();
                    let path = folder.join(name).with_added_extension("ids");
                    atomic::write(&path, little_endian(&tokens.concat()))?;
                }
                match json {
                    true => println!("{}", serde_json::to_string(&measured)?),
                    false => println!("{measured}"),
                }
            }
            Ok(())
        }
        TokenizerCommand::Shards { tokenizer, documents, out, json } => {
            anyhow::ensure!(!out.exists(), "{} is there already; name another folder", out.display());
            let start = Instant::now();
            let summary = shards::run(&shards::Settings::default(), &documents, &tokenizer, &out, ctx)?;
            let written = Written {
                bytes: summary.domains.iter().map(|domain| domain.bytes).sum(),
                tokens: summary.tokens,
                documents: summary.documents,
                threads: rayon::current_num_threads(),
                seconds: start.elapsed().as_secs_f64(),
            };
            match json {
                true => println!("{}", serde_json::to_string(&written)?),
                false => println!(
                    "{} tokens of {} documents, {} bytes: {}",
                    written.tokens,
                    written.documents,
                    written.bytes,
                    out.display()
                ),
            }
            Ok(())
        }
        TokenizerCommand::Save { tokenizer, out } => Ok(Tokenizer::load(tokenizer)?.save(out)?),
    }
}

/// A trainer that has seen some files, and how many bytes they hold. Counts that do not fit into `memory` are written
/// to a folder in `out`, which goes again.
fn fed(
    vocab_size: usize,
    files: &[PathBuf],
    memory: Option<u64>,
    out: &Path,
    ctx: &Context,
) -> anyhow::Result<(Trainer, u64)> {
    let settings = Settings { vocab_size, ..Settings::default() };
    let mut trainer = match memory {
        Some(memory) => Trainer::bounded(settings, memory, out)?,
        None => Trainer::new(settings)?,
    };
    let mut bytes = 0;
    for file in files {
        for_each_part(file, memory, |text| {
            ctx.stop.check()?;
            trainer.feed_lines(text)?;
            bytes += text.len() as u64;
            Ok(())
        })?;
    }
    Ok((trainer, bytes))
}

/// Calls `visit` with a file in parts that end with a line, of 64 MB or, with a limit of memory, about a sixteenth of it.
/// Bytes that are not UTF-8 become U+FFFD.
///
/// # Errors
/// Those of `visit`, a file that cannot be read, and with a limit of memory a line of three parts.
fn for_each_part(
    path: &Path,
    memory: Option<u64>,
    mut visit: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let size = memory.map_or(64 << 20, |memory| (memory / 16) as usize);
    let context = || format!("cannot read {}", path.display());
    let mut file = std::fs::File::open(path).with_context(context)?;
    let mut part = Vec::new();
    loop {
        let read = (&mut file).take(size as u64).read_to_end(&mut part).with_context(context)?;
        let line = match read {
            0 => part.len(),
            _ => part.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1),
        };
        visit(&String::from_utf8_lossy(&part[..line]))?;
        part.drain(..line);
        if read == 0 {
            return Ok(());
        }
        if memory.is_some() && part.len() > 3 * size {
            anyhow::bail!(
                "{}: a line of more than {} bytes does not fit into the memory allowed; break the text into lines, or \
                 give more --memory",
                path.display(),
                3 * size
            );
        }
    }
}

/// Characters per token of a file, before and after.
fn gain(base: &Tokenizer, extended: &Tokenizer, file: &Path, memory: Option<u64>) -> anyhow::Result<Gain> {
    let (mut characters, mut before, mut after) = (0, 0, 0);
    for_each_part(file, memory, |text| {
        characters += text.chars().count();
        before += base.encode_parallel(text).len();
        after += extended.encode_parallel(text).len();
        Ok(())
    })?;
    let of = |tokens: usize| characters as f64 / tokens.max(1) as f64;
    Ok(Gain { file: file.display().to_string(), before: of(before), after: of(after) })
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
    bytes: u64,
    vocab_size: usize,
    distinct_pieces: usize,
    seconds_counting: f64,
    seconds_learning: f64,
    /// How often counts were written to disk.
    spills: usize,
    /// Bytes, of the whole program.
    peak_memory: Option<u64>,
}

#[derive(Serialize)]
struct Written {
    bytes: u64,
    tokens: u64,
    documents: u64,
    threads: usize,
    seconds: f64,
}

#[derive(Serialize)]
struct Measured {
    file: String,
    bytes: usize,
    tokens: usize,
    threads: usize,
    seconds_cold: f64,
    seconds_warm: f64,
    /// Of the second half of the text, and the time that it takes once, after the first half.
    bytes_other: usize,
    seconds_other: f64,
}

impl std::fmt::Display for Measured {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = |seconds: f64| self.bytes as f64 / 1e6 / seconds;
        write!(
            out,
            "{}: {} bytes, {} tokens ({:.2} bytes each), {:.1} MB/s cold, {:.1} MB/s warm, {:.1} MB/s the second half after the \
             first",
            self.file,
            self.bytes,
            self.tokens,
            self.bytes as f64 / self.tokens.max(1) as f64,
            rate(self.seconds_cold),
            rate(self.seconds_warm),
            self.bytes_other as f64 / 1e6 / self.seconds_other
        )
    }
}

/// Encodes a file with a tokenizer of its own, for which everything is new.
fn measure(tokenizer: &Path, file: &Path, stop: &Stop) -> anyhow::Result<(Measured, TokenParts)> {
    let text = text(Some(file))?;
    let new = || Tokenizer::load(tokenizer).inspect(Tokenizer::prepare);
    let timed = |tokenizer: &Tokenizer, text: &str| {
        stop.check()?;
        let start = Instant::now();
        let ids = tokenizer.encode_parallel(text);
        anyhow::Ok((ids, start.elapsed().as_secs_f64()))
    };
    let (first, other) = text.split_at(text.ceil_char_boundary(text.len() / 2));
    let halves = new()?;
    timed(&halves, first)?;
    let seconds_other = timed(&halves, other)?.1;
    drop(halves);
    let tokenizer = new()?;
    let (ids, seconds_cold) = timed(&tokenizer, &text)?;
    let mut seconds_warm = f64::INFINITY;
    for _ in 0..WARM_ROUNDS {
        seconds_warm = seconds_warm.min(timed(&tokenizer, &text)?.1);
    }
    let measured = Measured {
        file: file.display().to_string(),
        bytes: text.len(),
        tokens: ids.len(),
        threads: rayon::current_num_threads(),
        seconds_cold,
        seconds_warm,
        bytes_other: other.len(),
        seconds_other,
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

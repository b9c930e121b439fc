//! The logits of a sequence as a safetensors file.

use crate::{Error, safetensors};
use herd_infer::Generator;
use herd_infer::gguf::BlockType;
use herd_run::atomic::{self, FileError};
use std::io::Write;
use std::path::Path;

/// The tokens of a file: a JSON list, or numbers with white space or commas between.
///
/// # Errors
/// The file cannot be read, is empty, or something in it is no token.
pub fn read_tokens(path: &Path) -> Result<Vec<u32>, Error> {
    let text = String::from_utf8_lossy(&atomic::read(path)?).into_owned();
    let separators = |c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']');
    let words = text.split(separators).filter(|word| !word.is_empty()).enumerate();
    let parse = |(at, word): (usize, &str)| {
        word.parse().map_err(|_| {
            let word: String = word.chars().take(20).collect();
            Error::at(path, format!("number {} is {word:?}; tokens are whole numbers from 0", at + 1))
        })
    };
    let tokens: Vec<u32> = words.map(parse).collect::<Result<_, _>>()?;
    if tokens.is_empty() {
        return Err(Error::at(path, "has no tokens; write them as [1, 2, 3]"));
    }
    Ok(tokens)
}

/// Writes `logits` [tokens, vocab] after every token to `out`, as they are computed.
///
/// # Errors
/// A token outside the vocabulary, too many of them, or a full disk.
pub fn write_logits(generator: &Generator, tokens: &[u32], out: &Path) -> Result<(), Error> {
    let shape = vec![tokens.len(), generator.config().vocab_size];
    let entry = safetensors::Entry { name: "logits".into(), shape, kind: BlockType::F32 };
    atomic::create(out, |file| {
        safetensors::write_head(file, &[entry])?;
        let mut written = Ok(());
        generator.each_logits(tokens, |_, logits| {
            if written.is_ok() {
                written = logits.iter().try_for_each(|x| file.write_all(&x.to_le_bytes()));
            }
        })?;
        Ok::<(), Error>(written.map_err(FileError::at("write", out))?)
    })
}

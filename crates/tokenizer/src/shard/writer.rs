use super::{END, FileStats, MAGIC, token_width};
use crate::Error;
use herd_run::atomic::{self, FileError};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a shard document by document. The file appears under its name only when [`finish`](Self::finish)
/// succeeds; a writer that is dropped before leaves nothing.
pub struct TokenShardWriter {
    path: PathBuf,
    scratch: PathBuf,
    out: Option<BufWriter<File>>,
    vocab_size: usize,
    hasher: blake3::Hasher,
    /// Tokens and text bytes up to the end of each document.
    ends: Vec<(u64, u64)>,
    buffer: Vec<u8>,
}

impl TokenShardWriter {
    /// Begins a shard whose ids are below `vocab_size`.
    pub fn create(path: impl Into<PathBuf>, vocab_size: usize) -> Result<Self, Error> {
        let path = path.into();
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(FileError::at("create", parent))?;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let scratch = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&scratch).map_err(FileError::at("create", &scratch))?;
        let mut writer = Self {
            path,
            scratch,
            out: Some(BufWriter::with_capacity(1 << 20, file)),
            vocab_size,
            hasher: blake3::Hasher::new(),
            ends: Vec::new(),
            buffer: Vec::new(),
        };
        writer.write(&header(vocab_size))?;
        Ok(writer)
    }

    /// Appends a document: its tokens, begin and end of text included, and the length of its text in bytes.
    ///
    /// # Errors
    /// A full disk, or a token outside the vocabulary.
    pub fn push(&mut self, tokens: &[u32], text_bytes: u64) -> Result<(), Error> {
        if let Some(bad) = tokens.iter().find(|&&id| id as usize >= self.vocab_size) {
            let problem = format!("token {bad} is outside the vocabulary of {}", self.vocab_size);
            return Err(Error::shard(&self.path, problem));
        }
        let mut bytes = std::mem::take(&mut self.buffer);
        bytes.clear();
        if token_width(self.vocab_size) == 2 {
            bytes.extend(tokens.iter().flat_map(|&id| (id as u16).to_le_bytes()));
        } else {
            bytes.extend(tokens.iter().flat_map(|&id| id.to_le_bytes()));
        }
        self.hasher.update(&bytes);
        let written = self.write(&bytes);
        self.buffer = bytes;
        written?;
        let (tokens_before, bytes_before) = self.ends.last().copied().unwrap_or_default();
        self.ends.push((tokens_before + tokens.len() as u64, bytes_before + text_bytes));
        Ok(())
    }

    /// Completes the file, syncs it and gives it its name.
    pub fn finish(mut self) -> Result<FileStats, Error> {
        let (tokens, bytes) = self.ends.last().copied().unwrap_or_default();
        let documents = self.ends.len() as u64;
        let padding = (tokens as usize * token_width(self.vocab_size)).wrapping_neg() % 8;
        self.write(&[0; 8][..padding])?;

        let mut index: Vec<u8> = Vec::with_capacity(self.ends.len() * 16 + 16);
        for &(tokens, bytes) in &self.ends {
            index.extend(tokens.to_le_bytes());
            index.extend(bytes.to_le_bytes());
        }
        index.extend(tokens.to_le_bytes());
        index.extend(documents.to_le_bytes());
        let token_hash = self.hasher.finalize();
        let index_hash = blake3::Hasher::new().update(&header(self.vocab_size)).update(&index).finalize();
        self.write(&index)?;
        self.write(token_hash.as_bytes())?;
        self.write(index_hash.as_bytes())?;
        self.write(END)?;

        if let Some(out) = self.out.take() {
            let file = out.into_inner().map_err(|e| e.into_error());
            file.and_then(|file| file.sync_all()).map_err(FileError::at("write", &self.path))?;
        }
        atomic::commit(&self.scratch, &self.path)?;
        let file = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(FileStats { file, tokens, documents, bytes })
    }

    /// Where the shard will be.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(out) = &mut self.out {
            out.write_all(bytes).map_err(FileError::at("write", &self.path))?;
        }
        Ok(())
    }
}

impl Drop for TokenShardWriter {
    fn drop(&mut self) {
        // After `finish` the scratch file has been renamed and there is nothing to remove.
        if self.out.take().is_some() || self.scratch.exists() {
            let _ = fs::remove_file(&self.scratch);
        }
    }
}

fn header(vocab_size: usize) -> [u8; super::HEADER] {
    let mut header = [0; super::HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&(token_width(vocab_size) as u32).to_le_bytes());
    header[12..].copy_from_slice(&(vocab_size as u32).to_le_bytes());
    header
}

//! What a stage reads: archives, or documents that somebody else extracted, as files of this machine or of an object
//! store, cut into splits that tasks can read alone.

use crate::archive::Archive;
use crate::documents::DocumentsError;
use crate::error::Error;
use crate::storage::{self, Folder};
use crate::table::{self, Rows};
use fastwarc::stream_io::gzip::GzipReader;
use herd_run::SettingError;
use herd_run::atomic::FileError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes that are fetched at a time beyond the end of a split, to find the end of its last record.
const MARGIN: u64 = 8 << 20;

/// What a file holds, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Web pages as they were crawled.
    Archive,
    /// Documents as Parquet.
    Parquet,
    /// Documents as JSON Lines, perhaps in gzip or zstd.
    Lines,
}

impl Kind {
    /// The kind of a file of that name; anything unknown is taken for an archive.
    pub fn of(name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        let bare = name.trim_end_matches(".gz").trim_end_matches(".zst");
        match bare.rsplit('.').next() {
            Some("parquet") => Self::Parquet,
            Some("jsonl" | "ndjson" | "json") => Self::Lines,
            _ => Self::Archive,
        }
    }
}

/// A part of a file that one task reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Path or address of the file.
    pub file: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Records that begin in these bytes.
    pub from: u64,
    /// The byte after them.
    pub to: u64,
}

impl Split {
    /// The file's name without its folders, as documents give their source.
    pub fn name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }
}

/// The files that patterns name, in order, each once, with their sizes. A pattern may be a path, an address of an object
/// store (`s3://bucket/crawl/*.warc.gz`), or either with `*`, `?` and `[...]` in it.
///
/// # Errors
///
/// A pattern that is none or matches nothing; a store that does not answer.
pub fn find(patterns: &[String]) -> Result<Vec<(String, u64)>, Error> {
    let mut files = std::collections::BTreeMap::new();
    for pattern in patterns {
        let invalid = |problem: String| SettingError::new("input", problem);
        let before = files.len();
        let mut any = false;
        if storage::is_remote(pattern) {
            for (file, bytes) in find_remote(pattern)? {
                any = true;
                files.insert(file, bytes);
            }
        } else {
            let local = pattern.strip_prefix("file://").unwrap_or(pattern);
            let found = glob::glob(local).map_err(|e| invalid(format!("'{pattern}' is no pattern: {e}")))?;
            for file in found {
                let file = file.map_err(|e| invalid(format!("'{pattern}': {e}")))?;
                any = true;
                let data = file.metadata().map_err(FileError::at("read", &file))?;
                if data.is_file() {
                    files.insert(file.display().to_string(), data.len());
                }
            }
        }
        if !any || (files.len() == before && before == 0) {
            let here = std::env::current_dir().unwrap_or_default();
            let problem = format!("'{pattern}' matches no file (looked from {})", here.display());
            return Err(invalid(problem).into());
        }
    }
    Ok(files.into_iter().collect())
}

fn find_remote(pattern: &str) -> Result<Vec<(String, u64)>, Error> {
    let invalid =
        |e: glob::PatternError| SettingError::new("input", format!("'{pattern}' is no pattern: {e}"));
    let glob = glob::Pattern::new(pattern).map_err(invalid)?;
    // Everything before the first wildcard is a folder to list.
    let fixed = pattern.find(['*', '?', '[']).unwrap_or(pattern.len());
    let folder = &pattern[..pattern[..fixed].rfind('/').unwrap_or(fixed)];
    let mut found = Vec::new();
    for (name, bytes) in Folder::at(folder)?.sizes()? {
        let file = format!("{folder}/{name}");
        if file == pattern || glob.matches(&file) {
            found.push((file, bytes));
        }
    }
    Ok(found)
}

/// Cuts files into splits of about `split_bytes`. Archives that are not compressed record by record, and JSON Lines, are
/// read by one task each.
pub fn splits(files: &[(String, u64)], split_bytes: u64) -> Vec<Split> {
    let mut splits = Vec::new();
    for (file, bytes) in files {
        let name = file.to_ascii_lowercase();
        let can_cut = match Kind::of(&name) {
            Kind::Archive => name.ends_with(".gz") || name.ends_with(".zst"),
            Kind::Parquet => true,
            Kind::Lines => false,
        };
        let count = if can_cut { bytes.div_ceil(split_bytes).max(1) } else { 1 };
        splits.extend((0..count).map(|n| Split {
            file: file.clone(),
            bytes: *bytes,
            from: bytes * n / count,
            to: bytes * (n + 1) / count,
        }));
    }
    splits
}

/// A split as a file of this machine; what was fetched for it is gone when this is dropped.
pub struct Local {
    path: PathBuf,
    /// Offset in the whole file of its first byte.
    origin: u64,
    _fetched: Option<TempDir>,
}

impl Local {
    /// The split's file, fetched if it lies elsewhere; of archives only the bytes of the split.
    pub fn of(split: &Split, work: &Folder) -> Result<Self, Error> {
        if !storage::is_remote(&split.file) {
            let path = PathBuf::from(&split.file);
            return Ok(Self { path, origin: 0, _fetched: None });
        }
        let (folder, name) = split.file.rsplit_once('/').unwrap_or((&split.file, ""));
        let blob = Folder::at(folder)?.open(name)?;
        let is_archive = Kind::of(name) == Kind::Archive;
        let (origin, end) = if is_archive { (split.from, split.to) } else { (0, split.bytes) };
        let scratch = work.scratch()?;
        let path = scratch.path().join(name);
        let mut file = File::create(&path).map_err(FileError::at("create", &path))?;
        let mut at = origin;
        let mut tail: Vec<u8> = Vec::new();
        loop {
            let bytes = blob.read(at..at + MARGIN)?;
            file.write_all(&bytes).map_err(FileError::at("write", &path))?;
            at += bytes.len() as u64;
            if at >= split.bytes || bytes.is_empty() || (!is_archive && at >= end) {
                break;
            }
            if at > end {
                // The last record ends where the next begins.
                let beyond = ((at - end) as usize).min(bytes.len());
                tail.extend(&bytes[bytes.len() - beyond..]);
                if crate::archive::record_from(&tail, 1.min(tail.len())) < tail.len() {
                    break;
                }
            }
        }
        Ok(Self { path, origin, _fetched: Some(scratch) })
    }

    /// The split's responses.
    pub fn archive(&self, split: &Split, body_limit: u64) -> Result<Archive, FileError> {
        // A file that is read whole ends where it ends, even if it has grown since.
        let to = if split.to == split.bytes { u64::MAX } else { split.to };
        Archive::open_range(&self.path, split.name(), self.origin, split.from..to, body_limit)
    }

    /// The split's rows, of files of documents; of Parquet those of `columns` that are there.
    pub fn rows(&self, split: &Split, columns: &[&str]) -> Result<Rows, DocumentsError> {
        match Kind::of(&split.file) {
            Kind::Parquet => table::open_range(&self.path, split.from..split.to, columns),
            _ => Ok(table::lines(unpacked(&self.path)?, &self.path)),
        }
    }
}

/// A file, its gzip or zstd undone.
fn unpacked(path: &Path) -> Result<Box<dyn BufRead + Send>, FileError> {
    let file = File::open(path).map_err(FileError::at("read", path))?;
    let mut buffered = BufReader::new(file);
    let magic =
        buffered.fill_buf().map_err(FileError::at("read", path))?.get(..4).unwrap_or_default().to_vec();
    Ok(match magic.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(BufReader::new(GzipReader::new(buffered))),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder = zstd::Decoder::new(buffered).map_err(FileError::at("read", path))?;
            Box::new(BufReader::new(decoder))
        }
        _ => Box::new(buffered),
    })
}

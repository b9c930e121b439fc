//! Content hashes (BLAKE3, hexadecimal): how a run folder knows that an input changed.

use crate::atomic::FileError;
use std::fs::{self, File};
use std::path::Path;

/// Hash of a byte string, 64 hexadecimal digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// Hash of a file's content, read in a stream.
pub fn of_file(path: &Path) -> Result<String, FileError> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(FileError::at("read", path))?;
    hasher.update_reader(file).map_err(FileError::at("read", path))?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Hash of a file, or of a folder's names and contents in sorted order. Names that begin with a dot are scratch
/// and are left out.
pub fn of_path(path: &Path) -> Result<String, FileError> {
    if !path.is_dir() {
        return of_file(path);
    }
    let mut names: Vec<_> = fs::read_dir(path)
        .map_err(FileError::at("list", path))?
        .map(|entry| entry.map(|e| e.file_name()))
        .collect::<Result<_, _>>()
        .map_err(FileError::at("list", path))?;
    names.sort();
    let mut hasher = blake3::Hasher::new();
    for name in names.iter().filter(|n| !n.to_string_lossy().starts_with('.')) {
        hasher.update(name.as_encoded_bytes());
        hasher.update(of_path(&path.join(name))?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

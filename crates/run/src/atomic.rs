//! Files that are complete or absent: written under a temporary name in the same folder, synced, then renamed.
//! A process killed at any moment leaves either the old content or the new one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// A file operation that failed, with the path it concerned and what was being done.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), remedy(source))]
pub struct FileError {
    /// What was attempted: `write`, `read`, `create`, `rename`.
    pub action: &'static str,
    /// The file or folder concerned.
    pub path: PathBuf,
    /// The operating system's answer.
    #[source]
    pub source: io::Error,
}

impl FileError {
    /// Attaches the action and path to an operating-system error; made for `map_err`.
    pub fn at(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> FileError {
        let path = path.into();
        move |source| FileError { action, path, source }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            " (free space on this disk and run the same command again; finished work is kept)"
        }
        io::ErrorKind::PermissionDenied => " (check the owner and mode of the folder)",
        io::ErrorKind::NotFound => " (check the path)",
        _ => "",
    }
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Writes a file through `fill`, then syncs and renames it to `path`. The parent folder is created if missing.
///
/// On an error from `fill` or the disk the temporary file is removed and `path` keeps its former content.
pub fn create<T, E>(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>) -> Result<T, E>
where
    E: From<FileError>,
{
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(FileError::at("create", parent))?;
    }
    let scratch = temporary(path);
    let file = File::create(&scratch).map_err(FileError::at("create", &scratch))?;
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    let outcome = fill(&mut writer).and_then(|value| {
        writer.flush().and_then(|()| writer.get_ref().sync_all()).map_err(FileError::at("write", path))?;
        Ok(value)
    });
    match outcome {
        Ok(value) => {
            commit(&scratch, path)?;
            Ok(value)
        }
        Err(error) => {
            let _ = fs::remove_file(&scratch);
            Err(error)
        }
    }
}

/// Writes `bytes` to `path`, complete or not at all.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<(), FileError> {
    create(path, |out| out.write_all(bytes.as_ref()).map_err(FileError::at("write", path)))
}

/// Writes `value` to `path` as indented JSON, complete or not at all.
pub fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), FileError> {
    create(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
            .map_err(FileError::at("write", path))
    })
}

/// Reads a whole file; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::at("read", path))
}

/// Reads a JSON file; an error names the file, line and column.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|e| FileError::at("parse", path)(io::Error::new(io::ErrorKind::InvalidData, e.to_string())))
}

/// Renames a finished temporary file or folder to its final name and syncs the folder that holds it, so that the
/// rename itself survives a power cut.
pub fn commit(scratch: &Path, path: &Path) -> Result<(), FileError> {
    fs::rename(scratch, path).map_err(FileError::at("rename", path))?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Some file systems refuse to sync a folder; the rename is then as durable as they make it.
    if let Ok(folder) = File::open(parent) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Fills a fresh folder through `fill`, then renames it to `path`, replacing an older folder of that name.
///
/// The folder appears complete or not at all; leftovers of a killed attempt are cleared first.
pub fn create_folder<T, E>(path: &Path, fill: impl FnOnce(&Path) -> Result<T, E>) -> Result<T, E>
where
    E: From<FileError>,
{
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let scratch = path.with_file_name(format!(".{name}.tmp"));
    let old = path.with_file_name(format!(".{name}.old"));
    for stale in [&scratch, &old] {
        if stale.exists() {
            fs::remove_dir_all(stale).map_err(FileError::at("clear", stale))?;
        }
    }
    fs::create_dir_all(&scratch).map_err(FileError::at("create", &scratch))?;
    let value = fill(&scratch)?;
    if path.exists() {
        fs::rename(path, &old).map_err(FileError::at("rename", path))?;
    }
    commit(&scratch, path)?;
    if old.exists() {
        fs::remove_dir_all(&old).map_err(FileError::at("clear", &old))?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_content_and_leaves_no_scratch() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write(&path, "old").unwrap();
        let error = create(&path, |out| {
            out.write_all(b"half").unwrap();
            Err::<(), _>(FileError::at("write", &path)(io::Error::from(io::ErrorKind::StorageFull)))
        })
        .unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let message = error.to_string();
        assert!(message.contains("a.txt") && message.contains("free space"), "{message}");
    }

    #[test]
    fn a_folder_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        create_folder(&path, |f| write(&f.join("one"), "1")).unwrap();
        create_folder(&path, |f| write(&f.join("two"), "2")).unwrap();
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["two"]);
    }
}

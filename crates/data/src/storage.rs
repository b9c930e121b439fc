//! Where the files of a stage lie: a folder of this machine, or one of an object store (`s3://`, `gs://`, `az://`) that
//! many machines share. A file is complete or absent in both: locally it is renamed when it is done, an object store
//! shows it when its upload has ended.
//!
//! Credentials and endpoints of object stores come from the environment, under the names that their own tools use
//! (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_NAME`, ...).

use bytes::Bytes;
use herd_run::atomic::{self, FileError};
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, Length};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use url::Url;

/// Bytes that are asked of an object store together.
const WINDOW: u64 = 1 << 20;
/// Bytes of a part of an upload.
const PART: usize = 8 << 20;

/// A folder, here or in an object store.
#[derive(Clone)]
pub struct Folder(Place);

#[derive(Clone)]
enum Place {
    Local(PathBuf),
    Remote(Arc<Remote>, Key),
}

struct Remote {
    store: Box<dyn ObjectStore>,
    /// Scheme and host, for people.
    root: String,
    runtime: Runtime,
}

/// Whether a location is the address of an object store.
pub fn is_remote(location: &str) -> bool {
    location.split_once("://").is_some_and(|(scheme, _)| scheme != "file")
}

fn io_error(error: object_store::Error) -> io::Error {
    let kind = match error {
        object_store::Error::NotFound { .. } => io::ErrorKind::NotFound,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            io::ErrorKind::PermissionDenied
        }
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error.to_string())
}

/// The key of a file, whose name may have folders in it.
fn child(key: &Key, name: &str) -> Key {
    Key::from(format!("{key}/{name}"))
}

impl Remote {
    fn open(location: &str) -> Result<(Self, Key), FileError> {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            // Another part of the program may have chosen one already, which serves as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let invalid = |e: String| {
            let problem = format!("{e} (known are s3://, gs://, az:// and paths of this machine)");
            FileError::at("open", location)(io::Error::new(io::ErrorKind::InvalidInput, problem))
        };
        let url = Url::parse(location).map_err(|e| invalid(e.to_string()))?;
        let options = std::env::vars().filter_map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            ["aws_", "google_", "azure_"].iter().any(|p| name.starts_with(p)).then_some((name, value))
        });
        let (store, key) = object_store::parse_url_opts(&url, options).map_err(|e| invalid(e.to_string()))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(FileError::at("open", location))?;
        let root = location.strip_suffix(key.as_ref()).unwrap_or(location).to_string();
        Ok((Self { store, root, runtime }, key))
    }

    /// The address of a key.
    fn address(&self, key: &Key) -> PathBuf {
        PathBuf::from(format!("{}{key}", self.root))
    }

    fn upload(&self, key: &Key, file: &Path) -> Result<(), FileError> {
        let failed = |e: object_store::Error| FileError::at("write", self.address(key))(io_error(e));
        let mut source = File::open(file).map_err(FileError::at("read", file))?;
        let mut part = Vec::new();
        let mut next = |part: &mut Vec<u8>| {
            part.clear();
            Read::by_ref(&mut source).take(PART as u64).read_to_end(part).map_err(FileError::at("read", file))
        };
        self.runtime.block_on(async {
            next(&mut part)?;
            if part.len() < PART {
                return self.store.put(key, part.into()).await.map(drop).map_err(failed);
            }
            let upload = self.store.put_multipart(key).await.map_err(failed)?;
            let mut writer = WriteMultipart::new_with_chunk_size(upload, PART);
            while !part.is_empty() {
                writer.wait_for_capacity(4).await.map_err(failed)?;
                writer.write(&part);
                next(&mut part)?;
            }
            writer.finish().await.map(drop).map_err(failed)
        })
    }
}

impl Folder {
    /// The folder at a path or an address.
    ///
    /// # Errors
    ///
    /// An address that is none, or of an unknown kind.
    pub fn at(location: impl AsRef<Path>) -> Result<Self, FileError> {
        let location = location.as_ref();
        match location.to_str().filter(|location| is_remote(location)) {
            Some(address) => {
                let (remote, key) = Remote::open(address.trim_end_matches('/'))?;
                Ok(Self(Place::Remote(Arc::new(remote), key)))
            }
            None => Ok(Self(Place::Local(location.to_path_buf()))),
        }
    }

    /// The folder in it of that name.
    pub fn join(&self, name: &str) -> Self {
        match &self.0 {
            Place::Local(path) => Self(Place::Local(path.join(name))),
            Place::Remote(remote, key) => Self(Place::Remote(remote.clone(), child(key, name))),
        }
    }

    /// The path or address of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        match &self.0 {
            Place::Local(path) => path.join(name),
            Place::Remote(remote, key) => remote.address(&child(key, name)),
        }
    }

    /// Its path, if it is of this machine.
    pub fn local(&self) -> Option<&Path> {
        match &self.0 {
            Place::Local(path) => Some(path),
            Place::Remote(..) => None,
        }
    }

    /// Whether it holds a file of that name.
    pub fn exists(&self, name: &str) -> Result<bool, FileError> {
        match &self.0 {
            Place::Local(path) => Ok(path.join(name).exists()),
            Place::Remote(remote, key) => {
                let key = child(key, name);
                match remote.runtime.block_on(remote.store.head(&key)) {
                    Ok(_) => Ok(true),
                    Err(object_store::Error::NotFound { .. }) => Ok(false),
                    Err(e) => Err(FileError::at("read", remote.address(&key))(io_error(e))),
                }
            }
        }
    }

    /// Names and sizes of the files in it, of those of its folders too, sorted.
    pub fn sizes(&self) -> Result<Vec<(String, u64)>, FileError> {
        let mut files = Vec::new();
        match &self.0 {
            Place::Local(path) => walk(path, String::new(), &mut files)?,
            Place::Remote(remote, key) => {
                let mut objects = remote.store.list(Some(key));
                while let Some(object) = remote.runtime.block_on(objects.next()) {
                    let object =
                        object.map_err(io_error).map_err(FileError::at("list", remote.address(key)))?;
                    let path = object.location.as_ref();
                    let name = path.strip_prefix(key.as_ref()).unwrap_or(path);
                    files.push((name.trim_start_matches('/').to_string(), object.size));
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Names of the files in it.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        Ok(self.sizes()?.into_iter().map(|(name, _)| name).collect())
    }

    /// Removes the folder and everything in it, if it is there; a file of its name is none.
    pub fn remove(&self) -> Result<(), FileError> {
        match &self.0 {
            Place::Local(path) if path.is_dir() => {
                std::fs::remove_dir_all(path).map_err(FileError::at("clear", path))
            }
            Place::Local(_) => Ok(()),
            Place::Remote(..) => self.names()?.iter().try_for_each(|name| self.remove_file(name)),
        }
    }

    /// Removes a file of it, if it is there.
    pub fn remove_file(&self, name: &str) -> Result<(), FileError> {
        match &self.0 {
            Place::Local(path) => match std::fs::remove_file(path.join(name)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(FileError::at("remove", path.join(name))(e))
                }
                _ => Ok(()),
            },
            Place::Remote(remote, key) => {
                let key = child(key, name);
                match remote.runtime.block_on(remote.store.delete(&key)) {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(e) => Err(FileError::at("remove", remote.address(&key))(io_error(e))),
                }
            }
        }
    }

    /// Moves a file to another folder of the same place, if it is still here: a move that was done is not an error.
    pub fn move_file(&self, name: &str, to: &Self, new_name: &str) -> Result<(), FileError> {
        if !self.exists(name)? && to.exists(new_name)? {
            return Ok(());
        }
        match (&self.0, &to.0) {
            (Place::Local(from), Place::Local(to)) => {
                let new = to.join(new_name);
                let parent = new.parent().unwrap_or(to);
                std::fs::create_dir_all(parent).map_err(FileError::at("create", parent))?;
                std::fs::rename(from.join(name), &new).map_err(FileError::at("move here", new))
            }
            (Place::Remote(remote, from), Place::Remote(_, to)) => {
                let (old, new) = (child(from, name), child(to, new_name));
                let moved = remote.runtime.block_on(remote.store.rename(&old, &new));
                moved.map_err(io_error).map_err(FileError::at("move here", remote.address(&new)))
            }
            _ => self.open(name).and_then(|blob| {
                to.create(new_name, |out| {
                    let mut reader = Chunks::from(blob).reader();
                    io::copy(&mut reader, out).map_err(FileError::at("write", to.path(new_name)))
                })?;
                self.remove_file(name)
            }),
        }
    }

    /// Where a task may put files of its own; they are gone when it ends.
    pub fn scratch(&self) -> Result<tempfile::TempDir, FileError> {
        let parent = match &self.0 {
            Place::Local(path) => path.join("scratch"),
            Place::Remote(..) => std::env::temp_dir(),
        };
        std::fs::create_dir_all(&parent).map_err(FileError::at("create", &parent))?;
        tempfile::TempDir::with_prefix_in("herd-", &parent).map_err(FileError::at("create", &parent))
    }

    /// Writes a file through `fill`, complete or not at all.
    pub fn create<T, E>(
        &self,
        name: &str,
        fill: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
    ) -> Result<T, E>
    where
        E: From<FileError>,
    {
        match &self.0 {
            Place::Local(path) => atomic::create(&path.join(name), fill),
            Place::Remote(remote, key) => {
                let scratch = self.scratch()?;
                let file = scratch.path().join("upload");
                let value = atomic::create(&file, fill)?;
                remote.upload(&child(key, name), &file)?;
                Ok(value)
            }
        }
    }

    /// Writes `value` as JSON, complete or not at all.
    pub fn write_json(&self, name: &str, value: &impl serde::Serialize) -> Result<(), FileError> {
        let path = self.path(name);
        self.create(name, |out| {
            serde_json::to_writer_pretty(&mut *out, value)
                .map_err(io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(FileError::at("write", path))
        })
    }

    /// Reads a JSON file; an error names the file, line and column.
    pub fn read_json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, FileError> {
        let blob = self.open(name)?;
        let bytes = blob.read(0..blob.len())?;
        serde_json::from_slice(&bytes).map_err(|e| {
            FileError::at("parse", blob.path)(io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
        })
    }

    /// Opens a file for reading.
    pub fn open(&self, name: &str) -> Result<Blob, FileError> {
        let path = self.path(name);
        match &self.0 {
            Place::Local(_) => {
                let file = File::open(&path).map_err(FileError::at("read", &path))?;
                let length = file.metadata().map_err(FileError::at("read", &path))?.len();
                Ok(Blob { path, length, content: Content::File(file) })
            }
            Place::Remote(remote, key) => {
                let key = child(key, name);
                let head = remote.runtime.block_on(remote.store.head(&key));
                let length = head.map_err(io_error).map_err(FileError::at("read", &path))?.size;
                let window = Mutex::new((0, Bytes::new()));
                Ok(Blob { path, length, content: Content::Object { remote: remote.clone(), key, window } })
            }
        }
    }
}

fn walk(folder: &Path, prefix: String, files: &mut Vec<(String, u64)>) -> Result<(), FileError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(FileError::at("read", folder)(e)),
    };
    for entry in entries {
        let entry = entry.map_err(FileError::at("read", folder))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path() {
            path if path.is_dir() => walk(&path, format!("{name}/"), files)?,
            // A file that is gone meanwhile was a temporary one.
            path => files.extend(path.metadata().ok().map(|data| (name, data.len()))),
        }
    }
    Ok(())
}

/// A file that is open for reading at any place.
pub struct Blob {
    path: PathBuf,
    length: u64,
    content: Content,
}

enum Content {
    File(File),
    Object { remote: Arc<Remote>, key: Key, window: Mutex<(u64, Bytes)> },
}

impl Blob {
    /// Its path or address.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a range of bytes; less of it only beyond the end.
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, FileError> {
        let range = range.start.min(self.length)..range.end.min(self.length);
        self.bytes(range).map_err(FileError::at("read", &self.path))
    }

    fn bytes(&self, range: Range<u64>) -> io::Result<Bytes> {
        match &self.content {
            Content::File(file) => {
                let mut bytes = vec![0; (range.end - range.start) as usize];
                file.read_exact_at(&mut bytes, range.start)?;
                Ok(bytes.into())
            }
            Content::Object { remote, key, window } => {
                let mut window = window.lock().map_err(|_| io::Error::other("a reader failed"))?;
                let there = window.0..window.0 + window.1.len() as u64;
                if range.start < there.start || range.end > there.end {
                    let end = range.end.max(range.start + WINDOW).min(self.length);
                    let read = remote.runtime.block_on(remote.store.get_range(key, range.start..end));
                    *window = (range.start, read.map_err(io_error)?);
                }
                let from = (range.start - window.0) as usize;
                Ok(window.1.slice(from..from + (range.end - range.start) as usize))
            }
        }
    }
}

impl Length for Blob {
    fn len(&self) -> u64 {
        self.length
    }
}

/// Reads a blob from a place to its end.
pub struct BlobReader {
    blob: Arc<Blob>,
    at: u64,
}

impl Read for BlobReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = (out.len() as u64).min(self.blob.length - self.at);
        let bytes = self.blob.bytes(self.at..self.at + length)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.at += length;
        Ok(bytes.len())
    }
}

/// A blob as Parquet and decompressors read it.
#[derive(Clone)]
pub struct Chunks(Arc<Blob>);

impl Chunks {
    /// The blob from its beginning.
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.0.clone(), at: 0 }
    }
}

impl From<Blob> for Chunks {
    fn from(blob: Blob) -> Self {
        Self(Arc::new(blob))
    }
}

impl Length for Chunks {
    fn len(&self) -> u64 {
        self.0.length
    }
}

impl ChunkReader for Chunks {
    type T = io::BufReader<BlobReader>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(io::BufReader::new(BlobReader { blob: self.0.clone(), at: start.min(self.0.length) }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let end = start + length as u64;
        if end > self.0.length {
            return Err(ParquetError::EOF(format!("bytes {start} to {end} of {}", self.0.length)));
        }
        self.0.bytes(start..end).map_err(|e| ParquetError::External(Box::new(e)))
    }
}

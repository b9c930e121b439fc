//! The GGUF container, versions 2 and 3: metadata and a table of tensors, memory-mapped.

use crate::Error;
use memmap2::Mmap;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A metadata value; numbers of all widths are one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A float.
    Number(f64),
    /// A whole number.
    Whole(i128),
    /// True or false.
    Flag(bool),
    /// A text.
    Text(String),
    /// Values of one kind.
    List(Vec<Value>),
    /// A list of texts, which [`Container::texts`] reads: a vocabulary has up to some 400,000 of them.
    Texts {
        /// Where the first begins in the file.
        at: usize,
        /// How many there are.
        count: usize,
    },
}

/// Where a tensor lies.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorEntry {
    /// Columns first, as GGUF writes it.
    pub shape: Vec<usize>,
    /// ggml's number of the type.
    pub kind: u32,
    /// From the beginning of the data section.
    pub offset: usize,
}

/// An open file.
pub struct Container {
    /// The file.
    pub path: PathBuf,
    /// Version of the format.
    pub version: u32,
    map: Mmap,
    data: usize,
    /// What the file says of the model, by key.
    pub metadata: BTreeMap<String, Value>,
    /// Where the tensors lie, by name.
    pub tensors: BTreeMap<String, TensorEntry>,
}

/// Longest key or name, bytes.
const MAX_NAME: usize = 256;

impl std::fmt::Display for Value {
    /// The beginning of it, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Value::Number(x) => write!(f, "{x}"),
            Value::Whole(n) => write!(f, "{n}"),
            Value::Flag(b) => write!(f, "{b}"),
            Value::Text(text) => write!(f, "{:?}", text.chars().take(60).collect::<String>()),
            Value::List(values) => write!(f, "a list of {}", values.len()),
            Value::Texts { count, .. } => write!(f, "a list of {count}"),
        }
    }
}

/// Lists inside lists are allowed by the format and used by nobody.
const MAX_DEPTH: usize = 2;

impl Container {
    /// Maps a file and reads its tables.
    ///
    /// # Errors
    /// A file that cannot be read, is cut off or is no GGUF.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let problem = |problem: String| Error::Model { path: path.to_path_buf(), problem };
        let file = File::open(path).map_err(|e| problem(e.to_string()))?;
        // SAFETY: the map is only read; a file that another process changes under it can give wrong numbers, as
        // with every memory-mapped checkpoint, but all accesses stay inside its length.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| problem(e.to_string()))?;
        let tables = Tables::read(&map).map_err(problem)?;
        Ok(Self {
            path: path.to_path_buf(),
            version: tables.version,
            data: tables.data,
            metadata: tables.metadata,
            tensors: tables.tensors,
            map,
        })
    }

    /// An error about this file.
    pub(crate) fn problem(&self, problem: impl Into<String>) -> Error {
        Error::Model { path: self.path.clone(), problem: problem.into() }
    }

    /// The whole file.
    pub(crate) fn all(&self) -> &[u8] {
        &self.map
    }

    /// The texts of [`Value::Texts`].
    pub fn texts(&self, at: usize, count: usize) -> impl Iterator<Item = Cow<'_, str>> {
        let mut reader = Reader { bytes: &self.map, at };
        // All of them were gone over when the file was opened.
        (0..count).map_while(move |_| reader.text().ok())
    }

    /// `length` bytes of a tensor.
    pub(crate) fn bytes(&self, name: &str, entry: &TensorEntry, length: usize) -> Result<&[u8], Error> {
        let start = self.data.checked_add(entry.offset);
        let range = start.and_then(|start| Some(start..start.checked_add(length)?));
        range.and_then(|r| self.map.get(r)).ok_or_else(|| {
            self.problem(format!("tensor `{name}` reaches beyond the end of the file; fetch the file again"))
        })
    }
}

impl Container {
    /// Says that bytes which came from [`Container::bytes`] will not be read soon: they need no memory until then.
    pub(crate) fn forget(&self, bytes: &[u8]) {
        #[cfg(unix)]
        {
            let start = bytes.as_ptr().addr() - self.map.as_ptr().addr();
            // SAFETY: a read-only map of a file; pages that were let go are read from the file again. It is advice:
            // nothing depends on whether the system follows it.
            let _ = unsafe {
                self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, bytes.len())
            };
        }
        #[cfg(not(unix))]
        let _ = bytes;
    }
}

struct Tables {
    version: u32,
    data: usize,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorEntry>,
}

impl Tables {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut r = Reader { bytes, at: 0 };
        if r.take(4).is_ok_and(|magic| magic != b"GGUF") || bytes.len() < 4 {
            return Err("not a GGUF file (it does not begin with GGUF)".into());
        }
        let version = r.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("GGUF version {version}; versions 2 and 3 are read"));
        }
        let (tensor_count, value_count) = (r.count(24)?, r.count(13)?);
        // The counts come in this order in the file but tensors follow the metadata.
        let mut metadata = BTreeMap::new();
        for _ in 0..value_count {
            let key = r.name()?;
            let kind = r.u32()?;
            let value = r.value(kind, 0).map_err(|e| format!("metadata `{key}`: {e}"))?;
            metadata.insert(key, value);
        }
        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = r.name()?;
            let dimensions = r.u32()?;
            if !(1..=4).contains(&dimensions) {
                return Err(format!("tensor `{name}` has {dimensions} dimensions; 1 to 4 are possible"));
            }
            let shape = (0..dimensions).map(|_| r.size()).collect::<Result<Vec<_>, _>>()?;
            let entry = TensorEntry { shape, kind: r.u32()?, offset: r.size()? };
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(format!("tensor `{name}` is there twice"));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Whole(n)) if *n > 0 && *n <= 1 << 20 => *n as usize,
            Some(other) => return Err(format!("`general.alignment` is {other}")),
        };
        Ok(Self { version, data: r.at.next_multiple_of(alignment), metadata, tensors })
    }
}

/// Reads little-endian values and never beyond the end.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| format!("cut off at byte {}; fetch the file again", self.bytes.len()))?;
        let part = &self.bytes[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn size(&mut self) -> Result<usize, String> {
        let size = self.array().map(u64::from_le_bytes)?;
        usize::try_from(size).map_err(|_| format!("a size of {size} at byte {}", self.at))
    }

    /// A number of things of at least `each` bytes, which must fit into the rest of the file.
    fn count(&mut self, each: usize) -> Result<usize, String> {
        let count = self.size()?;
        let rest = self.bytes.len() - self.at;
        if count > rest / each.max(1) {
            return Err(format!(
                "a list of {count} at byte {} is longer than the file; fetch the file again",
                self.at
            ));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<Cow<'a, str>, String> {
        let length = self.count(1)?;
        let at = self.at;
        // Vocabularies of old files hold pieces that are no UTF-8 by themselves.
        Ok(String::from_utf8_lossy(self.take(length).map_err(|e| format!("text at byte {at}: {e}"))?))
    }

    /// Goes over a list of texts without looking into them.
    fn texts(&mut self, count: usize) -> Result<Value, String> {
        let at = self.at;
        for _ in 0..count {
            let length = self.count(1)?;
            self.take(length)?;
        }
        Ok(Value::Texts { at, count })
    }

    /// A key or the name of a tensor, which must be fit to be shown.
    fn name(&mut self) -> Result<String, String> {
        let at = self.at;
        let name = self.text()?;
        if name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(format!("the name at byte {at} is damaged; fetch the file again"));
        }
        Ok(name.into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Whole(self.array().map(u8::from_le_bytes)?.into()),
            1 => Value::Whole(self.array().map(i8::from_le_bytes)?.into()),
            2 => Value::Whole(self.array().map(u16::from_le_bytes)?.into()),
            3 => Value::Whole(self.array().map(i16::from_le_bytes)?.into()),
            4 => Value::Whole(self.u32()?.into()),
            5 => Value::Whole(self.array().map(i32::from_le_bytes)?.into()),
            6 => Value::Number(self.array().map(f32::from_le_bytes)?.into()),
            7 => Value::Flag(self.take(1)?[0] != 0),
            8 => Value::Text(self.text()?.into_owned()),
            9 if depth < MAX_DEPTH => {
                let inner = self.u32()?;
                let each = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8].get(inner as usize).copied().unwrap_or(1);
                let count = self.count(each)?;
                if inner == 8 {
                    return self.texts(count);
                }
                Value::List((0..count).map(|_| self.value(inner, depth + 1)).collect::<Result<_, _>>()?)
            }
            10 => Value::Whole(self.array().map(u64::from_le_bytes)?.into()),
            11 => Value::Whole(self.array().map(i64::from_le_bytes)?.into()),
            12 => Value::Number(self.array().map(f64::from_le_bytes)?),
            other => return Err(format!("a value of unknown type {other} at byte {}", self.at)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(out: &mut Vec<u8>, text: &str) {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    }

    /// One value, one list, one tensor.
    fn small() -> Vec<u8> {
        let mut out = b"GGUF\x03\0\0\0".to_vec();
        out.extend(1u64.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        text(&mut out, "general.architecture");
        out.extend(8u32.to_le_bytes());
        text(&mut out, "llama");
        text(&mut out, "list");
        out.extend(9u32.to_le_bytes());
        out.extend(4u32.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(7u32.to_le_bytes());
        out.extend(9u32.to_le_bytes());
        text(&mut out, "t");
        out.extend(2u32.to_le_bytes());
        out.extend(3u64.to_le_bytes());
        out.extend(5u64.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        out
    }

    #[test]
    fn tables_are_read() {
        let tables = Tables::read(&small()).unwrap();
        assert_eq!(tables.metadata["general.architecture"], Value::Text("llama".into()));
        assert_eq!(tables.metadata["list"], Value::List(vec![Value::Whole(7), Value::Whole(9)]));
        assert_eq!(tables.tensors["t"], TensorEntry { shape: vec![3, 5], kind: 0, offset: 0 });
        assert_eq!(tables.data, small().len().next_multiple_of(32));
    }

    #[test]
    fn every_cut_and_every_changed_byte_is_an_error_or_harmless() {
        let whole = small();
        for length in 0..whole.len() {
            assert!(Tables::read(&whole[..length]).is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = Tables::read(&changed);
            }
        }
    }
}

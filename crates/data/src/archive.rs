//! Web archives (WARC 1.0 and 1.1; plain, gzip or zstd), read by `fastwarc`. Damage is reported with file and offset
//! and costs only the records it touches: reading goes on at the next record that can be found.

use fastwarc::stream_io::gzip::GzipReader;
use fastwarc::warc::iter::{ArchiveIterator, ArchiveIteratorOptions};
use fastwarc::warc::record::{WarcRecord, WarcRecordType};
use herd_run::atomic::FileError;
use memmap2::{Mmap, UncheckedAdvice};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A response as the crawler stored it.
#[derive(Debug, Clone, PartialEq)]
pub struct Response {
    /// Where its record starts in the file, bytes.
    pub offset: u64,
    /// The URL that was asked for.
    pub url: String,
    /// When it was captured, RFC 3339, as the archive states it.
    pub date: String,
    /// Status line, headers and body of HTTP.
    pub http: Vec<u8>,
    /// Bytes that the record announces; more than `http` holds if the limit cut it.
    pub announced: u64,
}

/// A place in an archive that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// File name.
    pub file: String,
    /// Offset of the record concerned, bytes.
    pub offset: u64,
    /// What is wrong.
    pub problem: String,
}

/// A part of a file in memory.
#[derive(Clone)]
struct Stretch {
    map: Arc<Mmap>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Stretch {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.start..self.end]
    }
}

/// Memory of the file that is given back together, bytes.
const READ_STRETCH: usize = 8 << 20;

/// The responses of one archive, in order. Yields `Err` for each damaged place and goes on after it.
pub struct Archive {
    name: String,
    map: Arc<Mmap>,
    records: Option<ArchiveIterator>,
    /// Offset in the whole archive of the file's first byte.
    origin: u64,
    /// Where reading ends.
    end: usize,
    /// Up to where memory was given back.
    released: usize,
    /// Offset that the current iterator counts from.
    base: usize,
    /// Start of the last record seen, bytes of the file.
    last: usize,
    /// Whether a record was read since the last search for one.
    progressed: bool,
    /// Offset of the damage reported last; the same place is reported once.
    reported: Option<usize>,
    body_limit: u64,
}

impl Archive {
    /// Opens an archive. Bodies beyond `body_limit` bytes are cut.
    pub fn open(path: &Path, body_limit: u64) -> Result<Self, FileError> {
        let name = path.file_name().map(PathBuf::from).unwrap_or_default().to_string_lossy().into_owned();
        Self::open_range(path, &name, 0, 0..u64::MAX, body_limit)
    }

    /// Opens the records that begin in a range of an archive `name`, of which the file at `path` holds the bytes from
    /// `origin` on. Compressed archives only can be cut; their ranges put together give each record once.
    pub(crate) fn open_range(
        path: &Path,
        name: &str,
        origin: u64,
        range: Range<u64>,
        body_limit: u64,
    ) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::at("read", path))?;
        // SAFETY: the map is read only; a file that another process cuts while it is read ends this process, as it
        // would any program that maps files. Archives are not changed once written.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::at("read", path))?;
        let within = |offset: u64| offset.saturating_sub(origin).min(map.len() as u64) as usize;
        let start = record_from(&map, within(range.start));
        let end = record_from(&map, within(range.end));
        let mut archive = Self {
            name: name.to_string(),
            map: Arc::new(map),
            records: None,
            origin,
            end,
            released: start,
            base: start,
            last: start,
            progressed: true,
            reported: None,
            body_limit,
        };
        archive.restart(start);
        Ok(archive)
    }

    /// File name, as documents give their source.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn restart(&mut self, at: usize) {
        self.base = at;
        self.last = at;
        let options =
            ArchiveIteratorOptions { parse_http: false, max_header_len: 256 << 10, ..Default::default() };
        let enough = self.end.saturating_sub(at) > 8;
        let stretch = Stretch { map: self.map.clone(), start: at.min(self.end), end: self.end };
        self.records = enough.then(|| ArchiveIterator::with_options(Cursor::new(stretch), options));
    }

    fn damage(&self, offset: usize, problem: impl Into<String>) -> Damage {
        Damage { file: self.name.clone(), offset: self.origin + offset as u64, problem: problem.into() }
    }

    /// Starts again at the next place after `from` that looks like the start of a record.
    fn search(&mut self, from: usize) {
        let bytes: &[u8] = &self.map[..self.end];
        let compressed = is_compressed(bytes);
        let patterns: &[&[u8]] =
            if compressed { &[b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"] } else { &[b"WARC/1.", b"\x1f\x8b\x08"] };
        let found = patterns.iter().filter_map(|p| memchr::memmem::find(bytes.get(from..)?, p)).min();
        match found {
            Some(n) => self.restart(from + n),
            None => self.records = None,
        }
        self.progressed = false;
    }
}

impl Iterator for Archive {
    type Item = Result<Response, Damage>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.records.as_mut()?.next();
            let record = match next {
                None => return self.at_end().map(Err),
                Some(Ok(record)) => record,
                Some(Err(error)) => {
                    let (at, first) = (self.last, std::mem::take(&mut self.progressed));
                    self.search(at + 1);
                    if first {
                        // The record that failed is the next one in the file, if one can be seen.
                        let at = if self.records.is_some() { self.base } else { at };
                        self.reported = Some(at);
                        return Some(Err(self.damage(at, format!("unreadable: {error}"))));
                    }
                    continue;
                }
            };
            let mut record = record.borrow_mut();
            let start = self.base + record.stream_pos() as usize;
            (self.last, self.progressed) = (start.max(self.last), true);
            if start > self.released + READ_STRETCH {
                // SAFETY: the file is mapped for reading only, so its pages can be read again from the disk.
                let advice = unsafe {
                    self.map.unchecked_advise_range(
                        UncheckedAdvice::DontNeed,
                        self.released,
                        start - self.released,
                    )
                };
                // If the system does not take it, it lets go when it needs memory.
                self.released = if advice.is_ok() { start } else { self.released };
            }
            match read(&mut record, self.origin + start as u64, self.body_limit) {
                Ok(Some(response)) => return Some(Ok(response)),
                Ok(None) => {}
                Err(problem) => {
                    drop(record);
                    self.search(start + 1);
                    if self.reported.replace(start) != Some(start) {
                        return Some(Err(self.damage(start, problem)));
                    }
                }
            }
        }
    }
}

impl Archive {
    /// What is wrong with the end of the file, if anything: no archive at all, or a last record that only begins.
    fn at_end(&mut self) -> Option<Damage> {
        self.records = None;
        let archive =
            [&b"WARC/"[..], b"\x1f\x8b", b"\x28\xb5\x2f\xfd"].iter().any(|m| self.map.starts_with(m));
        if !archive && self.last == 0 && self.origin == 0 && self.reported.is_none() {
            return Some(self.damage(0, "holds no WARC record"));
        }
        let rest = self.map.get(self.last + 1..self.end)?;
        for at in memchr::memmem::find_iter(rest, b"\x1f\x8b\x08") {
            let at = self.last + 1 + at;
            if self.reported.is_none_or(|reported| reported < at) && begins_record(&self.map[at..]) {
                return Some(self.damage(at, "the file ends within this record"));
            }
        }
        None
    }
}

fn is_compressed(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x1f\x8b") || bytes.starts_with(b"\x28\xb5\x2f\xfd")
}

/// The first place at or after `from` where a record of a compressed archive begins; the end if there is none.
pub(crate) fn record_from(bytes: &[u8], from: usize) -> usize {
    if from == 0 || from >= bytes.len() {
        return from.min(bytes.len());
    }
    let starts = [b"\x1f\x8b\x08" as &[u8], b"\x28\xb5\x2f\xfd"].map(|magic| {
        let mut found = memchr::memmem::find_iter(&bytes[from..], magic).map(|n| from + n);
        found.find(|at| begins_record(&bytes[*at..]))
    });
    starts.into_iter().flatten().min().unwrap_or(bytes.len())
}

/// Whether compressed bytes are the start of a record, as far as they go.
fn begins_record(bytes: &[u8]) -> bool {
    let mut start = Vec::new();
    if bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        let Ok(reader) = zstd::Decoder::new(&bytes[..bytes.len().min(128 << 10)]) else { return false };
        return reader.take(5).read_to_end(&mut start).is_ok() && start == b"WARC/";
    }
    let reader = GzipReader::new(Cursor::new(bytes[..bytes.len().min(4096)].to_vec()));
    let read = reader.take(5).read_to_end(&mut start);
    read.is_ok() && b"WARC/".starts_with(&start)
}

/// The response in a record; `None` for records of other kinds.
fn read(record: &mut WarcRecord, offset: u64, body_limit: u64) -> Result<Option<Response>, String> {
    let kind = record.record_type();
    let announced = record.content_length();
    if kind == WarcRecordType::NoType {
        return Err("a record without WARC-Type".into());
    }
    if record.headers().get("Content-Length").is_none() {
        return Err("a record without Content-Length; its headers may be cut".into());
    }
    let is_page = kind == WarcRecordType::Response && record.is_http();
    let header = |name: &str| record.headers().get(name).map(|v| v.trim_matches(['<', '>', ' ']).to_string());
    let (url, date) = (header("WARC-Target-URI"), header("WARC-Date"));
    let (true, Some(url)) = (is_page, url) else {
        return match record.consume() {
            Ok(read) if (read as u64) < announced => Err(format!("ends after {read} of {announced} bytes")),
            Ok(_) => Ok(None),
            Err(error) => Err(format!("unreadable: {error}")),
        };
    };
    let reader = record.reader_mut().ok_or("no content")?;
    let limit = announced.min(body_limit);
    let mut http = Vec::with_capacity(limit.min(1 << 20) as usize);
    reader.take(limit).read_to_end(&mut http).map_err(|error| format!("unreadable: {error}"))?;
    if (http.len() as u64) < limit {
        return Err(format!("ends after {} of {announced} bytes", http.len()));
    }
    let date = date.unwrap_or_default();
    Ok(Some(Response { offset, url, date, http, announced }))
}

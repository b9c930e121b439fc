//! Counts that did not fit into memory: sorted runs on disk, and their merge.
//!
//! A run is a file of records in the order of their pieces: u32 length, the piece, u64 count, little-endian.

use super::counts::Counts;
use crate::Error;
use herd_run::atomic::FileError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs that are read at once; more are merged to one before.
const MOST_RUNS: usize = 64;
/// Bytes read or written at once.
const BUFFER: usize = 64 << 10;

/// The runs of one training, in a folder that goes with them.
pub(super) struct Runs {
    folder: PathBuf,
    paths: Vec<PathBuf>,
    made: usize,
    pieces: usize,
}

impl Runs {
    /// No runs yet; the folder appears with the first.
    pub(super) fn new(parent: &Path) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!(".pieces.{}.{number}.tmp", std::process::id()));
        Self { folder, paths: Vec::new(), made: 0, pieces: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Pieces in all runs; after [`merge_all`](Self::merge_all) each counts once.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    /// Runs written so far, merged ones included.
    pub(super) fn written(&self) -> usize {
        self.made
    }

    /// Writes a table as a run and empties it.
    pub(super) fn spill(&mut self, counts: &mut Counts) -> Result<(), Error> {
        counts.sort();
        let (path, mut out) = self.create()?;
        for (piece, count) in counts.iter() {
            write(&mut out, piece, count).map_err(FileError::at("write", &path))?;
        }
        out.flush().map_err(FileError::at("write", &path))?;
        self.pieces += counts.len();
        counts.clear();
        self.paths.push(path);
        if self.paths.len() >= MOST_RUNS {
            self.merge_all()?;
        }
        Ok(())
    }

    /// Makes one run of all.
    pub(super) fn merge_all(&mut self) -> Result<(), Error> {
        if self.paths.len() < 2 {
            return Ok(());
        }
        let (path, mut out) = self.create()?;
        let mut pieces = 0;
        self.for_each(|piece, count| {
            pieces += 1;
            write(&mut out, piece, count).map_err(FileError::at("write", &path))
        })?;
        out.flush().map_err(FileError::at("write", &path))?;
        for old in self.paths.drain(..) {
            fs::remove_file(&old).map_err(FileError::at("remove", &old))?;
        }
        self.paths.push(path);
        self.pieces = pieces;
        Ok(())
    }

    fn create(&mut self) -> Result<(PathBuf, BufWriter<File>), FileError> {
        fs::create_dir_all(&self.folder).map_err(FileError::at("create", &self.folder))?;
        let path = self.folder.join(format!("{:06}", self.made));
        self.made += 1;
        let file = File::create(&path).map_err(FileError::at("create", &path))?;
        Ok((path, BufWriter::with_capacity(BUFFER, file)))
    }

    /// Calls `visit` with each distinct piece and the sum of its counts, in the order of the pieces.
    pub(super) fn for_each(
        &self,
        mut visit: impl FnMut(&[u8], u64) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        let mut readers = self.paths.iter().map(|path| Reader::open(path)).collect::<Result<Vec<_>, _>>()?;
        let mut heap = BinaryHeap::new();
        for (number, reader) in readers.iter_mut().enumerate() {
            heap.extend(reader.next()?.map(|(piece, count)| Reverse((piece, number, count))));
        }
        let mut current: Option<(Vec<u8>, u64)> = None;
        while let Some(Reverse((piece, number, count))) = heap.pop() {
            heap.extend(readers[number].next()?.map(|(piece, count)| Reverse((piece, number, count))));
            match &mut current {
                Some((same, sum)) if *same == piece => *sum += count,
                _ => {
                    if let Some((piece, sum)) = current.replace((piece, count)) {
                        visit(&piece, sum)?;
                    }
                }
            }
        }
        current.map_or(Ok(()), |(piece, sum)| visit(&piece, sum))
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        if self.made > 0 {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn write(out: &mut impl Write, piece: &[u8], count: u64) -> std::io::Result<()> {
    out.write_all(&(piece.len() as u32).to_le_bytes())?;
    out.write_all(piece)?;
    out.write_all(&count.to_le_bytes())
}

struct Reader<'p> {
    path: &'p Path,
    file: BufReader<File>,
}

impl<'p> Reader<'p> {
    fn open(path: &'p Path) -> Result<Self, FileError> {
        let file = File::open(path).map_err(FileError::at("read", path))?;
        Ok(Self { path, file: BufReader::with_capacity(BUFFER, file) })
    }

    fn next(&mut self) -> Result<Option<(Vec<u8>, u64)>, FileError> {
        let mut length = [0; 4];
        match self.file.read_exact(&mut length) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(FileError::at("read", self.path))?,
        }
        let mut piece = vec![0; u32::from_le_bytes(length) as usize];
        let mut count = [0; 8];
        let read = self.file.read_exact(&mut piece).and_then(|()| self.file.read_exact(&mut count));
        read.map_err(FileError::at("read", self.path))?;
        Ok(Some((piece, u64::from_le_bytes(count))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn runs_merge_to_the_sums_of_all_counts_and_leave_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::<Vec<u8>, u64>::new();
        let mut runs = Runs::new(folder.path());
        for run in 0..200u64 {
            let mut counts = Counts::default();
            for i in 0..300u64 {
                let piece = format!("{}", (i * i * 31 + run * 7) % 1000).repeat(1 + (i % 3) as usize);
                counts.add(piece.as_bytes(), run * i);
                *expected.entry(piece.into_bytes()).or_default() += run * i;
            }
            runs.spill(&mut counts).unwrap();
            assert_eq!(counts.len(), 0);
        }
        let mut merged = Vec::new();
        runs.for_each(|piece, count| {
            merged.push((piece.to_vec(), count));
            Ok(())
        })
        .unwrap();
        assert!(runs.paths.len() < MOST_RUNS && runs.written() > 200);
        assert_eq!(merged, expected.into_iter().collect::<Vec<_>>());
        runs.merge_all().unwrap();
        assert_eq!((runs.paths.len(), runs.pieces()), (1, merged.len()));
        drop(runs);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

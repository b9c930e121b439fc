use super::{END, FOOTER, HEADER, MAGIC, token_width};
use crate::Error;
use herd_run::atomic::FileError;
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A shard, mapped into memory. Opening it checks its structure; [`verify`](Self::verify) checks every token.
pub struct TokenShard {
    path: PathBuf,
    map: Mmap,
    width: usize,
    vocab_size: usize,
    document_ends: Vec<u64>,
    byte_ends: Vec<u64>,
    token_hash: [u8; 32],
}

/// One document of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its tokens, begin and end of text included.
    pub ids: Vec<u32>,
    /// Length of its text in bytes.
    pub bytes: u64,
}

impl TokenShard {
    /// Opens a shard.
    ///
    /// # Errors
    /// A file that is no shard, was cut short, or whose index does not match its checksum.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let file = File::open(&path).map_err(FileError::at("read", &path))?;
        // SAFETY: shards are written under another name, renamed, and never changed afterwards. If someone else
        // does change the file the process reads other tokens, or is ended by the system; no Rust value holds
        // references into the map beyond a call.
        let map = unsafe { Mmap::map(&file) }.map_err(FileError::at("map", &path))?;
        let wrong = |problem: &str| Error::shard(&path, format!("{problem}; run the stage `shards` again"));

        if map.get(..8) != Some(MAGIC) {
            return Err(wrong("not a token shard"));
        }
        if map.len() < HEADER + FOOTER || &map[map.len() - 8..] != END {
            return Err(wrong("the file is truncated"));
        }
        let width = u32_at(&map, 8) as usize;
        let vocab_size = u32_at(&map, 12) as usize;
        let footer = map.len() - FOOTER;
        let (tokens, documents) = (u64_at(&map, footer), u64_at(&map, footer + 8));
        let token_bytes =
            tokens.checked_mul(width as u64).and_then(|bytes| bytes.checked_next_multiple_of(8));
        let expected = token_bytes.zip(documents.checked_mul(16)).and_then(|(t, d)| t.checked_add(d));
        if width != token_width(vocab_size) || expected != Some((footer - HEADER) as u64) {
            return Err(wrong("its length does not match its counts: the file is corrupt"));
        }
        let index = footer - documents as usize * 16;
        let hash = blake3::Hasher::new().update(&map[..HEADER]).update(&map[index..footer + 16]).finalize();
        if hash.as_bytes().as_slice() != &map[footer + 48..footer + 80] {
            return Err(wrong("its index does not match its checksum: the file is corrupt"));
        }
        let column =
            |offset| (0..documents as usize).map(|i| u64_at(&map, index + 16 * i + offset)).collect();
        let (document_ends, byte_ends): (Vec<u64>, Vec<u64>) = (column(0), column(8));
        if !document_ends.is_sorted()
            || !byte_ends.is_sorted()
            || document_ends.last().unwrap_or(&0) != &tokens
        {
            return Err(wrong("its document ends are not in order: the file is corrupt"));
        }
        let mut token_hash = [0; 32];
        token_hash.copy_from_slice(&map[footer + 16..footer + 48]);
        Ok(Self { path, width, vocab_size, document_ends, byte_ends, token_hash, map })
    }

    /// Reads all tokens once and compares them with the checksum.
    pub fn verify(&self) -> Result<(), Error> {
        let end = HEADER + self.tokens() as usize * self.width;
        if blake3::hash(&self.map[HEADER..end]).as_bytes() != &self.token_hash {
            let problem =
                "its tokens do not match their checksum: the file is corrupt; run the stage `shards` again";
            return Err(Error::shard(&self.path, problem));
        }
        Ok(())
    }

    /// Where the shard is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the vocabulary that the ids belong to.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.document_ends.last().copied().unwrap_or(0)
    }

    /// Number of documents.
    pub fn documents(&self) -> usize {
        self.document_ends.len()
    }

    /// For each document the position after its last token; ascending, the last is [`tokens`](Self::tokens).
    pub fn document_ends(&self) -> &[u64] {
        &self.document_ends
    }

    /// Positions of a document's tokens. Empty for a document that is not there.
    pub fn document_range(&self, i: usize) -> Range<u64> {
        span(&self.document_ends, i)
    }

    /// Length of a document's text in bytes.
    pub fn document_bytes(&self, i: usize) -> u64 {
        let Range { start, end } = span(&self.byte_ends, i);
        end - start
    }

    /// One document.
    pub fn document(&self, i: usize) -> Document {
        let range = self.document_range(i);
        let mut ids = Vec::with_capacity((range.end - range.start) as usize);
        self.read(range, &mut ids);
        Document { ids, bytes: self.document_bytes(i) }
    }

    /// Appends the tokens at some positions to `out`; positions after the last token are left out.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) {
        let (start, end) = (range.start.min(self.tokens()), range.end.min(self.tokens()));
        if start >= end {
            return;
        }
        let bytes = &self.map[HEADER + start as usize * self.width..HEADER + end as usize * self.width];
        if self.width == 2 {
            out.extend(bytes.as_chunks::<2>().0.iter().map(|&b| u32::from(u16::from_le_bytes(b))));
        } else {
            out.extend(bytes.as_chunks::<4>().0.iter().map(|&b| u32::from_le_bytes(b)));
        }
    }
}

fn span(ends: &[u64], i: usize) -> Range<u64> {
    let Some(&end) = ends.get(i) else { return 0..0 };
    (if i == 0 { 0 } else { ends[i - 1] })..end
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]))
}

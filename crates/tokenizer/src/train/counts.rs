//! How often each distinct piece occurs: a table whose memory is known.

use crate::hashing::of_bytes;

/// A distinct piece.
#[derive(Clone, Copy)]
struct Entry {
    /// Where its bytes begin.
    start: u64,
    length: u32,
    hash: u32,
    count: u64,
}

/// Distinct pieces and their counts, in the order in which they were met.
#[derive(Default)]
pub(super) struct Counts {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Open addressing: one more than the number of an entry, or 0; a power of two, at most half full.
    index: Vec<u32>,
}

impl Counts {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that the table takes.
    pub(super) fn memory(&self) -> u64 {
        let entries = self.entries.capacity() * size_of::<Entry>();
        (self.bytes.capacity() + entries + self.index.capacity() * size_of::<u32>()) as u64
    }

    /// Adds to the count of a piece.
    #[inline]
    pub(super) fn add(&mut self, piece: &[u8], count: u64) {
        if 2 * self.entries.len() >= self.index.len() {
            self.grow();
        }
        let hash = of_bytes(piece) as u32;
        let mask = self.index.len() - 1;
        let mut at = hash as usize & mask;
        while let Some(number) = (self.index[at] as usize).checked_sub(1) {
            let entry = &mut self.entries[number];
            if entry.hash == hash && self.bytes[entry.start as usize..][..entry.length as usize] == *piece {
                entry.count += count;
                return;
            }
            at = (at + 1) & mask;
        }
        // By a quarter: doubling would hold twice of what is needed.
        let quarter = |size: usize| (size / 4).max(1024);
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(quarter(self.entries.len()));
        }
        if self.bytes.capacity() - self.bytes.len() < piece.len() {
            self.bytes.reserve_exact(quarter(self.bytes.len()).max(piece.len()));
        }
        let (start, length) = (self.bytes.len() as u64, piece.len() as u32);
        self.bytes.extend_from_slice(piece);
        self.entries.push(Entry { start, length, hash, count });
        self.index[at] = self.entries.len() as u32;
    }

    fn grow(&mut self) {
        let size = (self.index.len() * 2).max(1024);
        self.index = vec![0; size];
        for (number, entry) in (1..).zip(&self.entries) {
            let mut at = entry.hash as usize & (size - 1);
            while self.index[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.index[at] = number;
        }
    }

    /// The pieces and their counts.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.entries.iter().map(|entry| (self.piece(entry), entry.count))
    }

    fn piece(&self, entry: &Entry) -> &[u8] {
        &self.bytes[entry.start as usize..][..entry.length as usize]
    }

    /// Puts the pieces in the order of their bytes. After it only [`iter`](Self::iter) and [`clear`](Self::clear) make
    /// sense.
    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        let piece = |entry: &Entry| &bytes[entry.start as usize..][..entry.length as usize];
        self.entries.sort_unstable_by(|a, b| piece(a).cmp(piece(b)));
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

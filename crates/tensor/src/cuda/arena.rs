//! A card's memory, handed out in pieces: the driver is asked for large chunks, and never again for what was given back.
//!
//! Everything runs in one stream, so a piece may be given to the next operator while the last one that used it is still
//! at work. A request takes the lowest place where it fits, in the oldest chunk; so equal steps get equal places, and the
//! second needs no more than the first.

use super::calls::Address;
use std::collections::BTreeMap;

/// Pieces begin at multiples of this, as kernels and cuBLASLt like it.
const ALIGN: usize = 256;
/// The least that the driver is asked for at once.
const CHUNK: usize = 64 << 20;
/// Chunks are multiples of this, the driver's own granularity.
const GRANULE: usize = 2 << 20;

struct Chunk {
    address: Address,
    size: usize,
    /// Free stretches: offset to length. No two touch.
    free: BTreeMap<usize, usize>,
}

/// What a card's memory is used for, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CardUsage {
    /// In use by buffers now.
    pub live: usize,
    /// The most that was ever in use at once.
    pub peak_live: usize,
    /// Taken from the driver.
    pub held: usize,
    /// How often the driver was asked.
    pub requests: u64,
}

#[derive(Default)]
pub(super) struct Arena {
    chunks: Vec<Chunk>,
    pub usage: CardUsage,
    /// Pieces handed out since it was asked to note them, with their sizes.
    noted: Option<Vec<(Address, usize)>>,
}

impl Arena {
    /// How much a request of `bytes` takes.
    fn rounded(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(ALIGN)
    }

    /// The size of the chunk to ask the driver for if `bytes` do not fit.
    pub fn chunk_for(bytes: usize) -> usize {
        Self::rounded(bytes).max(CHUNK).next_multiple_of(GRANULE)
    }

    /// A place for `bytes`, or `None` if a chunk must be added first.
    pub fn take(&mut self, bytes: usize) -> Option<Address> {
        let size = Self::rounded(bytes);
        let address = self.chunks.iter_mut().find_map(|chunk| {
            let (offset, length) = chunk.free.iter().map(|(o, l)| (*o, *l)).find(|(_, l)| *l >= size)?;
            chunk.free.remove(&offset);
            if length > size {
                chunk.free.insert(offset + size, length - size);
            }
            Some(chunk.address + offset as u64)
        })?;
        self.in_use(size);
        if let Some(noted) = &mut self.noted {
            noted.push((address, size));
        }
        Some(address)
    }

    fn in_use(&mut self, size: usize) {
        self.usage.live += size;
        self.usage.peak_live = self.usage.peak_live.max(self.usage.live);
    }

    /// Notes what is handed out from now on.
    pub fn note(&mut self) {
        self.noted = Some(Vec::new());
    }

    /// Ends that.
    pub fn forget_noted(&mut self) {
        self.noted = None;
    }

    /// Ends it and takes what was handed out since and is free now out of use: the caller gives each piece back once.
    pub fn keep_noted(&mut self) -> Vec<(Address, usize)> {
        let mut kept = Vec::new();
        for (address, size) in self.noted.take().unwrap_or_default() {
            let inside = |c: &&mut Chunk| (c.address..c.address + c.size as u64).contains(&address);
            let chunk = self.chunks.iter_mut().find(inside).expect("it lies in the chunk that it came from");
            let start = (address - chunk.address) as usize;
            let overlapping = chunk.free.iter().map(|(offset, length)| (*offset, *length));
            let overlapping: Vec<_> = overlapping
                .filter(|(offset, length)| *offset < start + size && start < offset + length)
                .collect();
            for (offset, length) in overlapping {
                let (from, to) = (offset.max(start), (offset + length).min(start + size));
                chunk.free.remove(&offset);
                if offset < from {
                    chunk.free.insert(offset, from - offset);
                }
                if to < offset + length {
                    chunk.free.insert(to, offset + length - to);
                }
                kept.push((chunk.address + from as u64, to - from));
            }
        }
        kept.iter().for_each(|(_, size)| self.in_use(*size));
        kept
    }

    /// Takes back what [`Arena::take`] gave for `bytes`.
    pub fn give(&mut self, address: Address, bytes: usize) {
        let mut size = Self::rounded(bytes);
        self.usage.live -= size;
        let inside = |c: &&mut Chunk| (c.address..c.address + c.size as u64).contains(&address);
        let chunk = self.chunks.iter_mut().find(inside).expect("it lies in the chunk that it came from");
        let mut offset = (address - chunk.address) as usize;
        if let Some(after) = chunk.free.remove(&(offset + size)) {
            size += after;
        }
        if let Some((&before, &length)) = chunk.free.range(..offset).next_back()
            && before + length == offset
        {
            (offset, size) = (before, size + length);
        }
        chunk.free.insert(offset, size);
    }

    /// Adds what the driver gave.
    pub fn add(&mut self, address: Address, size: usize) {
        self.chunks.push(Chunk { address, size, free: [(0, size)].into() });
        self.usage.held += size;
        self.usage.requests += 1;
    }

    /// Addresses of all chunks, for the end.
    pub fn chunks(&self) -> impl Iterator<Item = Address> {
        self.chunks.iter().map(|chunk| chunk.address)
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGN, Arena, CHUNK};

    #[test]
    fn pieces_do_not_overlap_and_come_together_again() {
        let mut arena = Arena::default();
        assert_eq!(arena.take(1), None);
        arena.add(1 << 40, CHUNK);
        let [a, b, c] = [1, ALIGN + 1, 10 * ALIGN].map(|bytes| arena.take(bytes).unwrap());
        assert_eq!([b - a, c - b], [ALIGN as u64, 2 * ALIGN as u64]);
        arena.give(b, ALIGN + 1);
        // The hole is too small for one, right for the other.
        assert_eq!(arena.take(3 * ALIGN), Some(c + 10 * ALIGN as u64));
        assert_eq!(arena.take(2 * ALIGN), Some(b));
        arena.give(a, 1);
        arena.give(c, 10 * ALIGN);
        arena.give(b, 2 * ALIGN);
        arena.give(c + 10 * ALIGN as u64, 3 * ALIGN);
        assert_eq!(arena.usage.live, 0);
        assert_eq!(arena.take(CHUNK), Some(1 << 40), "all of it is one piece again");
        assert_eq!(arena.take(1), None);
    }

    #[test]
    fn what_was_noted_is_kept_from_others() {
        let mut arena = Arena::default();
        arena.add(1 << 40, CHUNK);
        let before = arena.take(ALIGN).unwrap();
        arena.note();
        let [a, b] = [2 * ALIGN, ALIGN].map(|bytes| arena.take(bytes).unwrap());
        arena.give(a, 2 * ALIGN);
        // The same place once more, and beyond it: what overlaps is kept once.
        let c = arena.take(ALIGN).unwrap();
        arena.give(c, ALIGN);
        let kept = arena.keep_noted();
        assert_eq!((c, kept.iter().map(|(_, size)| size).sum::<usize>()), (a, 2 * ALIGN));
        assert_eq!(arena.usage.live, 4 * ALIGN);
        let d = arena.take(ALIGN).unwrap();
        assert_eq!(d, b + ALIGN as u64, "neither the place of a nor that of b, which is still in use");
        kept.into_iter().for_each(|(address, size)| arena.give(address, size));
        [before, b, d].into_iter().for_each(|address| arena.give(address, ALIGN));
        assert_eq!(arena.usage.live, 0);
        assert_eq!(arena.take(CHUNK), Some(1 << 40), "all of it is one piece again");
    }

    #[test]
    fn equal_steps_get_equal_places() {
        let mut arena = Arena::default();
        let mut step = || {
            let (mut places, mut held) = (Vec::new(), Vec::new());
            for i in 0..40usize {
                let bytes = (i * 7919 % 13 + 1) * (3 << 20);
                let address = arena.take(bytes).unwrap_or_else(|| {
                    arena.add(((i as u64) + 1) << 40, Arena::chunk_for(bytes));
                    arena.take(bytes).unwrap()
                });
                places.push(address);
                held.push((address, bytes));
                if i % 3 == 0 {
                    let (address, bytes) = held.remove(i * 31 % held.len());
                    arena.give(address, bytes);
                }
            }
            held.into_iter().for_each(|(address, bytes)| arena.give(address, bytes));
            (places, arena.usage.requests)
        };
        assert_eq!(step(), step());
    }
}

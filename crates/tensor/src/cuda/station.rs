//! Places on the card between the stream of compute and that of copies: one stream fills a station, the other empties it, and
//! each waits for the other by itself, so that copies between host and card run beside compute.

use super::calls::{Address, Handle};
use super::card::{driver, lock};
use super::staging::{Block, NO_TIMING};
use super::{Card, CardError};
use std::ptr;

/// Two of each kind, so that one is filled while the other is emptied.
const STATIONS: usize = 2;

/// A stretch of the card's memory.
struct Station {
    address: Address,
    /// Recorded when it was filled, by the stream that fills it, and when it was emptied, by the other.
    full: Handle,
    empty: Handle,
}

/// Stations that take turns.
#[derive(Default)]
pub(super) struct Stations {
    list: Vec<Station>,
    /// Bytes of each.
    bytes: usize,
    turn: usize,
}

impl Stations {
    /// Sees to it that each has at least so many bytes.
    pub fn grow(&mut self, card: &Card, bytes: usize) -> Result<(), CardError> {
        if bytes <= self.bytes {
            return Ok(());
        }
        // What was emptied in the stream of compute, or filled there, may serve others in it.
        let calls = &card.0.calls;
        let held = std::mem::take(&mut self.bytes);
        for station in self.list.iter().filter(|_| held > 0) {
            driver!(calls, stream_wait(*card.0.stream.turn(), station.full, 0))?;
            driver!(calls, stream_wait(*card.0.stream.turn(), station.empty, 0))?;
            card.give(station.address, held);
        }
        while self.list.len() < STATIONS {
            let (mut full, mut empty): (Handle, Handle) = (ptr::null_mut(), ptr::null_mut());
            driver!(calls, event_create(&mut full, NO_TIMING))?;
            driver!(calls, event_create(&mut empty, NO_TIMING))?;
            self.list.push(Station { address: 0, full, empty });
        }
        for station in &mut self.list {
            station.address = card.take(bytes)?;
            // What used that memory before is in the stream of compute.
            driver!(calls, event_record(station.empty, *card.0.stream.turn()))?;
        }
        self.bytes = bytes;
        Ok(())
    }

    fn next(&mut self) -> &Station {
        self.turn = (self.turn + 1) % self.list.len();
        &self.list[self.turn]
    }

    /// Brings values of the host to a place on the card; the stream of compute has them from now on.
    pub fn upload(&mut self, card: &Card, from: &[u8], to: Address) -> Result<(), CardError> {
        assert!(from.len() <= self.bytes, "a station of {} bytes for {}", self.bytes, from.len());
        let (calls, compute, copies) = (&card.0.calls, card.0.stream.turn(), card.0.copies);
        let &Station { address, full, empty } = self.next();
        driver!(calls, stream_wait(copies, empty, 0))?;
        lock(&card.0.staging).upload(calls, copies, from, address)?;
        driver!(calls, event_record(full, copies))?;
        driver!(calls, stream_wait(*compute, full, 0))?;
        driver!(calls, copy(to, address, from.len(), *compute))?;
        driver!(calls, event_record(empty, *compute))
    }

    /// Brings what the stream of compute has made to the host; the place may be used for something else from now on.
    pub fn download(&mut self, card: &Card, from: Address, bytes: usize) -> Result<Block, CardError> {
        assert!(bytes <= self.bytes, "a station of {} bytes for {bytes}", self.bytes);
        let (calls, compute, copies) = (&card.0.calls, card.0.stream.turn(), card.0.copies);
        let &Station { address, full, empty } = self.next();
        driver!(calls, stream_wait(*compute, empty, 0))?;
        driver!(calls, copy(address, from, bytes, *compute))?;
        driver!(calls, event_record(full, *compute))?;
        driver!(calls, stream_wait(copies, full, 0))?;
        let block = lock(&card.0.staging).download(calls, copies, address, bytes)?;
        driver!(calls, event_record(empty, copies))?;
        Ok(block)
    }

    /// Events of all, for the end.
    pub fn events(&mut self) -> impl Iterator<Item = Handle> {
        self.list.drain(..).flat_map(|station| [station.full, station.empty])
    }
}

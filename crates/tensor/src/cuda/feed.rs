//! What differs from pass to pass: one stretch of the card's memory that each pass fills anew, with one upload. What is put
//! there in the same order, with the same room, lies at the same addresses.

use super::calls::{Address, Handle};
use super::station::Stations;
use super::{Card, CardError};

/// Pieces begin at multiples of this.
const ALIGN: usize = 256;

#[derive(Default)]
pub(super) struct Feed {
    address: Address,
    bytes: usize,
    /// What the open pass has put there, and how much of it is uploaded.
    values: Vec<u8>,
    uploaded: usize,
    /// What the open pass would have put there, had there been room.
    wanted: usize,
    stations: Stations,
}

impl Feed {
    /// Puts values where there will be room for so many bytes, of which the rest is zero. `None` if the feed is full.
    pub fn put(&mut self, values: &[u8], room: usize) -> Option<Address> {
        let room = room.max(values.len()).next_multiple_of(ALIGN);
        self.wanted += room;
        let at = self.values.len();
        if at + room > self.bytes {
            return None;
        }
        self.values.extend_from_slice(values);
        self.values.resize(at + room, 0);
        Some(self.address + at as u64)
    }

    /// Uploads what was put there since the last time, beside what the card still computes.
    pub fn upload(&mut self, card: &Card) -> Result<(), CardError> {
        let new = self.uploaded..self.values.len();
        self.uploaded = new.end;
        if new.is_empty() {
            return Ok(());
        }
        card.enter()?;
        self.stations.upload(card, &self.values[new.clone()], self.address + new.start as u64)
    }

    /// Begins anew; with more room if the pass that ends wanted more.
    pub fn end(&mut self, card: &Card) -> Result<(), CardError> {
        let wanted = std::mem::take(&mut self.wanted);
        self.values.clear();
        self.uploaded = 0;
        if wanted > self.bytes {
            if self.bytes > 0 {
                card.give(self.address, self.bytes);
            }
            self.bytes = 0;
            let bytes = wanted.next_power_of_two();
            self.address = card.take(bytes)?;
            self.stations.grow(card, bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Events of its stations, for the end.
    pub fn events(&mut self) -> impl Iterator<Item = Handle> {
        self.stations.events()
    }
}

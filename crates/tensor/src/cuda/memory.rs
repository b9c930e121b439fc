//! A card's memory: one stretch of addresses, each block at the lowest place where it fits, as in the pool of the CPU
//! (`pool::arena`). The stretch is as long as the card's memory and becomes memory where it is first needed, so equal
//! steps get equal places and the second asks the driver for nothing.
//!
//! A block that is given back may be handed out again at once: whoever used it and whoever uses it next stand in one
//! queue, the compute stream. What the copy stream reads is kept until its event has passed ([`super::Later`]).

use super::api::driver::{Access, AllocationProp, DevicePtr, Driver, Location};
use super::{Card, Error};
use crate::pool::Places;
use std::sync::{Mutex, PoisonError};

/// Places are multiples of this many bytes.
const UNIT: usize = 512;
/// Addresses become memory at least this many bytes at a time.
const CHUNK: usize = 64 << 20;

/// Bytes of a card that Herd holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// In blocks now.
    pub live: usize,
    /// The most that was ever in blocks at once.
    pub peak: usize,
    /// Taken from the driver.
    pub held: usize,
    /// How often the driver was asked.
    pub requests: usize,
}

struct State {
    places: Places,
    usage: Usage,
}

/// The addresses and which of them are taken.
pub struct Memory {
    ordinal: i32,
    base: DevicePtr,
    reserved: usize,
    granularity: usize,
    state: Mutex<State>,
}

impl Memory {
    fn properties(ordinal: i32) -> AllocationProp {
        AllocationProp { kind: 1, location: Location { kind: 1, id: ordinal }, ..AllocationProp::default() }
    }

    /// Reserves addresses for all of a card's memory.
    pub fn reserve(driver: &Driver, ordinal: i32, bytes: usize) -> Result<Self, Error> {
        let (mut granularity, mut base) = (0, 0);
        // SAFETY: pointers to live variables.
        unsafe {
            driver.mem_granularity(&mut granularity, &Self::properties(ordinal), 0)?;
            let reserved = bytes.next_multiple_of(granularity.max(1));
            driver.address_reserve(&mut base, reserved, 0, 0, 0)?;
            let state = Mutex::new(State { places: Places::default(), usage: Usage::default() });
            Ok(Self { ordinal, base, reserved, granularity, state })
        }
    }

    /// What is in use.
    pub fn usage(&self) -> Usage {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).usage
    }

    fn take(&self, driver: &Driver, bytes: usize) -> Result<(DevicePtr, usize), Error> {
        let size = bytes.max(1).next_multiple_of(UNIT);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let full = || {
            Error::Unfit(format!(
                "the card has no room for {bytes} bytes more: smaller `micro_batch_tokens`, `recompute = true`, or another card"
            ))
        };
        let (place, _) = state.places.take(size / UNIT, self.reserved / UNIT).ok_or_else(full)?;
        let end = place * UNIT + size;
        if end > state.usage.held {
            let more = (end - state.usage.held).max(CHUNK).next_multiple_of(self.granularity);
            let more = more.min(self.reserved - state.usage.held);
            if let Err(error) = self.map(driver, state.usage.held, more) {
                state.places.give(place, size / UNIT);
                return Err(error);
            }
            state.usage.held += more;
            state.usage.requests += 1;
        }
        state.usage.live += size;
        state.usage.peak = state.usage.peak.max(state.usage.live);
        Ok((self.base + (place * UNIT) as u64, size))
    }

    /// Puts memory behind addresses.
    fn map(&self, driver: &Driver, offset: usize, bytes: usize) -> Result<(), Error> {
        let mut handle = 0;
        let at = self.base + offset as u64;
        let access = Access { location: Location { kind: 1, id: self.ordinal }, flags: 3 };
        // SAFETY: the range lies in the reserved addresses and has no memory yet.
        unsafe {
            driver.mem_create(&mut handle, bytes, &Self::properties(self.ordinal), 0)?;
            driver.mem_map(at, bytes, 0, handle, 0)?;
            driver.mem_set_access(at, bytes, &access, 1)?;
            // The mapping keeps it.
            driver.mem_release(handle)
        }
    }

    fn give(&self, at: DevicePtr, size: usize) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.usage.live -= size;
        state.places.give((at - self.base) as usize / UNIT, size / UNIT);
    }
}

/// Memory of a card, given back when dropped.
pub struct Block {
    /// Whose.
    pub card: Card,
    at: DevicePtr,
    size: usize,
}

impl Block {
    /// Room for `bytes`, holding whatever was there (with `HERD_CUDA_POISON` set: NaN in every format).
    pub fn new(card: Card, bytes: usize) -> Result<Self, Error> {
        let (at, size) = card.memory().take(card.driver(), bytes)?;
        let block = Self { card, at, size };
        if card.poisons() {
            card.fill(at, 0xff, size)?;
        }
        Ok(block)
    }

    /// Its address.
    pub fn at(&self) -> DevicePtr {
        self.at
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.card.memory().give(self.at, self.size);
    }
}

//! Copies between host and card through pinned memory, and numbers on their way to the host.

use super::api::driver::DevicePtr;
use super::card::Pointer;
use super::memory::Block;
use super::{Card, Error};
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// Larger copies go in pieces of this many bytes.
const PIECE: usize = 16 << 20;
/// Pinned buffers are at least this large.
const LEAST: usize = 64 << 10;
/// Pinned buffers that may be busy at once before the host waits for the oldest.
const BUSY: usize = 64;

/// Pinned host memory, with the event after which it may be used again.
struct Pinned {
    host: *mut c_void,
    capacity: usize,
    event: Pointer,
}
// SAFETY: uniquely owned host memory.
unsafe impl Send for Pinned {}
// SAFETY: shared access reads only.
unsafe impl Sync for Pinned {}

/// Pinned buffers of a card: those whose copy may still be under way, the oldest first, and idle ones.
#[derive(Default)]
pub struct Staging {
    idle: Mutex<Vec<Pinned>>,
    busy: Mutex<Vec<Pinned>>,
}

fn locked<T>(list: &Mutex<Vec<T>>) -> std::sync::MutexGuard<'_, Vec<T>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Staging {
    /// A pinned buffer that nobody uses.
    fn take(&self, card: Card, bytes: usize) -> Result<Pinned, Error> {
        let driver = card.driver();
        let capacity = bytes.next_power_of_two().clamp(LEAST, PIECE);
        let mut busy = locked(&self.busy);
        let mut idle = locked(&self.idle);
        while let Some(first) = busy.first() {
            // SAFETY: the event is this card's.
            unsafe {
                if busy.len() > BUSY {
                    driver.event_synchronize(first.event.0)?;
                } else if !driver.is_done(first.event.0)? {
                    break;
                }
            }
            idle.push(busy.remove(0));
        }
        if let Some(at) = idle.iter().position(|p| p.capacity == capacity) {
            return Ok(idle.swap_remove(at));
        }
        let mut host = std::ptr::null_mut();
        // SAFETY: a pointer to a live variable.
        unsafe { driver.host_alloc(&mut host, capacity, 0)? };
        Ok(Pinned { host, capacity, event: Pointer(card.event()?) })
    }

    /// Copies host bytes to the card, in the order of computing; returns as soon as the bytes may change.
    pub fn upload(&self, card: Card, to: DevicePtr, bytes: &[u8]) -> Result<(), Error> {
        for (i, piece) in bytes.chunks(PIECE).enumerate() {
            let pinned = self.take(card, piece.len())?;
            // SAFETY: the buffer is as large as the piece, and no copy reads or writes it; the target is a block's.
            unsafe {
                std::ptr::copy_nonoverlapping(piece.as_ptr(), pinned.host.cast(), piece.len());
                let driver = card.driver();
                driver.copy_to_card(to + (i * PIECE) as u64, pinned.host, piece.len(), card.compute())?;
                driver.event_record(pinned.event.0, card.compute())?;
            }
            locked(&self.busy).push(pinned);
        }
        Ok(())
    }

    /// Copies bytes from the card after everything enqueued so far, and waits for them.
    pub fn download(&self, card: Card, from: DevicePtr, bytes: &mut [u8]) -> Result<(), Error> {
        for (i, piece) in bytes.chunks_mut(PIECE).enumerate() {
            let pinned = self.start(card, from + (i * PIECE) as u64, piece.len())?;
            // SAFETY: the event is this card's; after it the buffer holds the bytes.
            unsafe {
                card.driver().event_synchronize(pinned.event.0)?;
                std::ptr::copy_nonoverlapping(pinned.host.cast(), piece.as_mut_ptr(), piece.len());
            }
            locked(&self.idle).push(pinned);
        }
        Ok(())
    }

    /// Enqueues a copy to the host on the copy stream, behind what is to be computed before it.
    fn start(&self, card: Card, from: DevicePtr, bytes: usize) -> Result<Pinned, Error> {
        let pinned = self.take(card, bytes)?;
        let driver = card.driver();
        // SAFETY: the source is a block's, the buffer is large enough; the event orders the two streams.
        unsafe {
            driver.event_record(pinned.event.0, card.compute())?;
            driver.stream_wait_event(card.copies(), pinned.event.0, 0)?;
            driver.copy_to_host(pinned.host, from, bytes, card.copies())?;
            driver.event_record(pinned.event.0, card.copies())?;
        }
        Ok(pinned)
    }
}

/// Numbers that are known, or will be when a card has computed them.
pub struct Later(State);

enum State {
    Known(Vec<f32>),
    Coming { count: usize, pinned: Option<Pinned>, block: Block },
}

impl Later {
    /// Numbers that are known already.
    pub fn known(values: Vec<f32>) -> Self {
        Self(State::Known(values))
    }

    /// `count` floats of a block, once they are computed.
    pub(crate) fn coming(block: Block, count: usize) -> Result<Self, Error> {
        let pinned = block.card.staging().start(block.card, block.at(), 4 * count)?;
        Ok(Self(State::Coming { count, pinned: Some(pinned), block }))
    }

    /// The numbers, if no waiting is needed because the CPU computed them.
    pub fn if_known(&self) -> Option<&[f32]> {
        match &self.0 {
            State::Known(values) => Some(values),
            State::Coming { .. } => None,
        }
    }

    /// Copies the first number to a card's memory, in the order of computing.
    pub(super) fn copy_to(&self, to: DevicePtr) -> Result<(), Error> {
        match &self.0 {
            State::Known(_) => Err(Error::Unfit("the host computed this loss, not the card".into())),
            State::Coming { block, .. } => block.card.copy(to, block.at(), 4),
        }
    }

    /// The numbers. Panics if the card failed.
    pub fn wait(mut self) -> Vec<f32> {
        match &mut self.0 {
            State::Known(values) => std::mem::take(values),
            State::Coming { count, pinned, block } => {
                let pinned = pinned.take().expect("taken once");
                let mut values = vec![0.0f32; *count];
                finish(block.card, &pinned).unwrap_or_else(|error| panic!("card: {error}"));
                // SAFETY: after the event the buffer holds `count` floats.
                unsafe { std::ptr::copy_nonoverlapping(pinned.host.cast(), values.as_mut_ptr(), *count) };
                locked(&block.card.staging().idle).push(pinned);
                values
            }
        }
    }
}

fn finish(card: Card, pinned: &Pinned) -> Result<(), Error> {
    // SAFETY: the event is this card's.
    unsafe { card.driver().event_synchronize(pinned.event.0) }
}

/// The block must not be used for anything else while the copy stream may still read it.
impl Drop for Later {
    fn drop(&mut self) {
        if let State::Coming { pinned, block, .. } = &mut self.0
            && let Some(pinned) = pinned.take()
            && finish(block.card, &pinned).is_ok()
        {
            locked(&block.card.staging().idle).push(pinned);
        }
    }
}

impl std::fmt::Debug for Later {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Later({:?})", self.if_known())
    }
}

//! Memory of the host that the card reads and writes by itself: what is uploaded is copied there first, and some of what is
//! downloaded is fetched from there later, so the caller may go on while the card is still at other work.

use super::calls::{Address, DriverCalls, Handle};
use super::card::driver;
use super::{Card, CardError};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr;

/// What one block holds at least, and at most.
const LEAST: usize = 64 << 10;
const MOST: usize = 16 << 20;
/// Blocks under way hold no more than this; then the oldest is waited for.
const UNDER_WAY: usize = 64 << 20;

pub(super) struct Block {
    memory: Handle,
    size: usize,
    /// Recorded after the last copy from it.
    event: Handle,
}

#[derive(Default)]
pub(super) struct Staging {
    idle: Vec<Block>,
    /// In the order of their copies.
    under_way: VecDeque<Block>,
}

impl Staging {
    /// Copies `from` and asks the card to fetch it.
    pub fn upload(
        &mut self,
        calls: &DriverCalls,
        stream: Handle,
        from: &[u8],
        to: Address,
    ) -> Result<(), CardError> {
        for (index, part) in from.chunks(MOST).enumerate() {
            let block = self.block(calls, part.len())?;
            // SAFETY: the block is idle, so nobody else reads or writes it, and at least as long as `part`.
            unsafe { ptr::copy_nonoverlapping(part.as_ptr(), block.memory.cast(), part.len()) };
            let memory: *const c_void = block.memory;
            let event = block.event;
            self.under_way.push_back(block);
            driver!(calls, upload(to + (index * MOST) as u64, memory, part.len(), stream))?;
            driver!(calls, event_record(event, stream))?;
        }
        Ok(())
    }

    /// Asks for `bytes` to be copied to a block, whose event tells when they are there.
    pub fn download(
        &mut self,
        calls: &DriverCalls,
        stream: Handle,
        from: Address,
        bytes: usize,
    ) -> Result<Block, CardError> {
        let block = self.block(calls, bytes)?;
        driver!(calls, download(block.memory, from, bytes, stream))?;
        driver!(calls, event_record(block.event, stream))?;
        Ok(block)
    }

    /// Takes a block back that the card may still be writing to.
    pub fn give(&mut self, block: Block) {
        self.under_way.push_back(block);
    }

    /// An idle block of at least `bytes`.
    fn block(&mut self, calls: &DriverCalls, bytes: usize) -> Result<Block, CardError> {
        let wanted = bytes.next_power_of_two().max(LEAST);
        loop {
            // SAFETY: the event is one of ours.
            while let Some(oldest) = self.under_way.front()
                && unsafe { (calls.event_query.call)(oldest.event) } == 0
            {
                self.idle.extend(self.under_way.pop_front());
            }
            if let Some(index) = self.idle.iter().position(|block| block.size == wanted) {
                return Ok(self.idle.swap_remove(index));
            }
            let held: usize = self.under_way.iter().map(|block| block.size).sum();
            if held + wanted <= UNDER_WAY {
                break;
            }
            let oldest = self.under_way.front().expect("something is held").event;
            driver!(calls, event_synchronize(oldest))?;
        }
        let (mut memory, mut event): (Handle, Handle) = (ptr::null_mut(), ptr::null_mut());
        driver!(calls, host_alloc(&mut memory, wanted, 0))?;
        driver!(calls, event_create(&mut event, NO_TIMING))?;
        Ok(Block { memory, size: wanted, event })
    }

    /// Gives everything back; the stream is done.
    pub fn free(&mut self, calls: &DriverCalls) {
        for block in self.under_way.drain(..).chain(self.idle.drain(..)) {
            let _ = driver!(calls, event_destroy(block.event));
            let _ = driver!(calls, host_free(block.memory));
        }
    }
}

/// From `cuda.h`: an event that takes no time down.
pub(super) const NO_TIMING: u32 = 2;

/// Bytes on their way to the host.
pub struct CardDownload {
    card: Card,
    block: Option<Block>,
    bytes: usize,
}

impl CardDownload {
    /// `bytes` that the card copies to a block of its staging memory.
    pub(super) fn new(card: &Card, block: Block, bytes: usize) -> Self {
        Self { card: card.clone(), block: Some(block), bytes }
    }

    /// Waits until they are there.
    ///
    /// # Errors
    /// The card failed.
    pub fn wait(self) -> Result<Vec<u8>, CardError> {
        let block = self.block.as_ref().expect("there until this is dropped");
        self.card.wait_for(block.event)?;
        // SAFETY: the block holds at least so many bytes, and the copy to them is done.
        Ok(unsafe { std::slice::from_raw_parts(block.memory.cast::<u8>(), self.bytes) }.to_vec())
    }
}

impl Drop for CardDownload {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.card.give_block(block);
        }
    }
}

//! Large flat buffers of zeros that become memory only where they are written.
//!
//! The gradient of an embedding table and its moments in the optimizer are zero for every token that was never met:
//! those pages are never made. What is written as a whole asks for huge pages, since matrix products touch many rows
//! at once and would wait for address translation with small ones.
//!
//! A buffer may lie on a card. The host then sees a copy, made when it looks; what it changes goes to the card before
//! something is computed with it there.

use crate::cuda::api::driver::DevicePtr;
use crate::cuda::{Block, Card};
use bytemuck::Pod;
use memmap2::MmapMut;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

const HUGE_PAGE: usize = 2 << 20;

/// Numbers of the host.
struct Pages<T> {
    map: MmapMut,
    /// Bytes before the first value: huge pages begin at multiples of their size.
    offset: usize,
    len: usize,
    values: PhantomData<T>,
}

impl<T: Pod> Pages<T> {
    fn new(len: usize) -> Self {
        let bytes = len * size_of::<T>();
        let slack = if bytes >= HUGE_PAGE { HUGE_PAGE } else { 0 };
        let map = MmapMut::map_anon((bytes + slack).max(1))
            .unwrap_or_else(|error| panic!("no memory for a buffer of {bytes} bytes: {error}"));
        let offset = if slack == 0 { 0 } else { map.as_ptr().align_offset(HUGE_PAGE) };
        Self { map, offset, len, values: PhantomData }
    }

    fn expect_writes(&self, range: Range<usize>) {
        let whole = (range.start * size_of::<T>()).next_multiple_of(HUGE_PAGE)
            ..range.end * size_of::<T>() / HUGE_PAGE * HUGE_PAGE;
        #[cfg(target_os = "linux")]
        if !whole.is_empty() {
            // Advice: a kernel that cannot follow it loses speed, nothing else.
            let _ = self.map.advise_range(memmap2::Advice::HugePage, self.offset + whole.start, whole.len());
        }
        #[cfg(not(target_os = "linux"))]
        drop(whole);
    }

    fn values(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[self.offset..self.offset + self.len * size_of::<T>()])
    }

    fn values_mut(&mut self) -> &mut [T] {
        let end = self.offset + self.len * size_of::<T>();
        bytemuck::cast_slice_mut(&mut self.map[self.offset..end])
    }
}

/// An owned run of numbers that starts as zeros, from the system and not from the pool, or on a card.
pub struct Flat<T = f32> {
    /// Always there without a card; with one, empty where only the card knows the numbers.
    host: OnceLock<Pages<T>>,
    card: Option<OnCard>,
    len: usize,
}

struct OnCard {
    block: Block,
    /// Whether the host has changed its copy since it was last sent.
    changed: AtomicBool,
    /// Held while it is sent.
    sending: Mutex<()>,
}

impl<T: Pod> Flat<T> {
    fn of(pages: Pages<T>) -> Self {
        let len = pages.len;
        Self { host: OnceLock::from(pages), card: None, len }
    }

    /// `len` zeros; memory is taken page by page, at the first write. Panics if the system refuses the addresses.
    pub fn sparse(len: usize) -> Self {
        Self::of(Pages::new(len))
    }

    /// `len` zeros that will all be written.
    pub fn dense(len: usize) -> Self {
        let flat = Self::sparse(len);
        flat.expect_writes(0..len);
        flat
    }

    /// `len` zeros on a card; panics if it has no room.
    pub(crate) fn zeros_on(card: Card, len: usize) -> Self {
        let block = card.block(len * size_of::<T>());
        card.fill(block.at(), 0, len * size_of::<T>()).unwrap_or_else(|error| panic!("card: {error}"));
        let on_card = OnCard { block, changed: AtomicBool::new(false), sending: Mutex::new(()) };
        Self { host: OnceLock::new(), card: Some(on_card), len }
    }

    /// Zeros as [`Flat::sparse`], of the same number as `other` and where it lies.
    pub fn zeros_like<U: Pod>(other: &Flat<U>) -> Self {
        match other.card() {
            Some(card) => Self::zeros_on(card, other.len),
            None => Self::sparse(other.len),
        }
    }

    /// Moves the numbers to a card.
    pub(crate) fn move_to(&mut self, card: Card) -> Result<(), crate::cuda::Error> {
        let block = Block::new(card, self.len * size_of::<T>())?;
        self.card = Some(OnCard { block, changed: AtomicBool::new(true), sending: Mutex::new(()) });
        Ok(())
    }

    /// The card that the numbers lie on.
    pub fn card(&self) -> Option<Card> {
        self.card.as_ref().map(|on_card| on_card.block.card)
    }

    /// Their address there, for kernels that read, and whether the host's changes were sent only now.
    pub(crate) fn at(&self) -> (DevicePtr, bool) {
        let on_card = self.card.as_ref().expect("the numbers lie on a card");
        let mut sent = false;
        if on_card.changed.load(Ordering::Acquire) {
            let _sending = on_card.sending.lock().unwrap_or_else(PoisonError::into_inner);
            if on_card.changed.load(Ordering::Acquire) {
                let bytes = bytemuck::cast_slice(self.host.get().expect("it was changed").values());
                let card = on_card.block.card;
                let result = card.staging().upload(card, on_card.block.at(), bytes);
                result.unwrap_or_else(|error| panic!("card: {error}"));
                on_card.changed.store(false, Ordering::Release);
                sent = true;
            }
        }
        (on_card.block.at(), sent)
    }

    /// Their address there, for kernels that write: the host's copy is forgotten.
    pub(crate) fn at_mut(&mut self) -> DevicePtr {
        let (at, _) = self.at();
        self.host.take();
        at
    }

    /// Says that all values of a range are going to be written: its untouched pages may be huge ones.
    pub fn expect_writes(&self, range: Range<usize>) {
        if let Some(pages) = self.host.get() {
            pages.expect_writes(range);
        }
    }

    fn pages(&self) -> &Pages<T> {
        self.host.get_or_init(|| {
            let on_card = self.card.as_ref().expect("the host's numbers are always there without a card");
            let mut pages = Pages::new(self.len);
            let bytes = bytemuck::cast_slice_mut(pages.values_mut());
            let card = on_card.block.card;
            let result = card.staging().download(card, on_card.block.at(), bytes);
            result.unwrap_or_else(|error| panic!("card: {error}"));
            pages
        })
    }
}

impl<T: Pod> std::ops::Deref for Flat<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.pages().values()
    }
}

impl<T: Pod> std::ops::DerefMut for Flat<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if let Some(on_card) = &self.card {
            self.pages();
            on_card.changed.store(true, Ordering::Release);
        }
        self.host.get_mut().expect("just made, if it was not there").values_mut()
    }
}

/// The copy lies in the host's memory.
impl<T: Pod> Clone for Flat<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::dense(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

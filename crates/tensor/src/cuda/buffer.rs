//! Memory of a card, as buffers that go back to its arena.

use super::{Card, CardDownload, CardError};
use bytemuck::Pod;

/// What numbers are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// The upper halves of 32-bit floats.
    Bf16,
}

impl DType {
    /// Bytes of one number.
    pub fn size(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::Bf16 => 2,
        }
    }
}

/// An owned run of bytes in a card's memory. Dropped, it goes back to the card's arena; what was launched before still
/// finds it, since all work is in one stream.
pub struct CardBuffer {
    card: Card,
    address: u64,
    bytes: usize,
    /// The pass that it is an input of, if it does not lie in the arena.
    pass: Option<u64>,
}

impl CardBuffer {
    /// Bytes of unspecified content.
    pub fn stale(card: &Card, bytes: usize) -> Result<Self, CardError> {
        Ok(Self { card: card.clone(), address: card.take(bytes)?, bytes, pass: None })
    }

    /// Zeros.
    pub fn zeroed(card: &Card, bytes: usize) -> Result<Self, CardError> {
        let buffer = Self::stale(card, bytes)?;
        card.clear(buffer.address, bytes)?;
        Ok(buffer)
    }

    /// A copy of values of the host. The values may change as soon as this returns.
    pub fn from_host<T: Pod>(card: &Card, values: &[T]) -> Result<Self, CardError> {
        let buffer = Self::stale(card, size_of_val(values))?;
        card.upload(bytemuck::cast_slice(values), buffer.address)?;
        Ok(buffer)
    }

    /// A copy of values of the host for kernels of the open pass (see [`Card::pass`]): `room` values are reserved, so that
    /// what is given next lies at the same address in a pass that needs no more. It is there until the pass is run; without
    /// one this is [`CardBuffer::from_host`].
    pub fn input<T: Pod>(card: &Card, values: &[T], room: usize) -> Result<Self, CardError> {
        let bytes = size_of_val(values);
        match card.feed(bytemuck::cast_slice(values), room * size_of::<T>()) {
            Some((address, pass)) => Ok(Self { card: card.clone(), address, bytes, pass: Some(pass) }),
            None => Self::from_host(card, values),
        }
    }

    /// Whether its values are still there: those of an input are not when its pass was run.
    pub(crate) fn is_current(&self) -> bool {
        self.pass.is_none() || self.pass == self.card.open_pass()
    }

    /// A copy on the same card.
    pub fn copied(&self) -> Result<Self, CardError> {
        let copy = Self::stale(&self.card, self.bytes)?;
        self.card.copy(self.address, copy.address, self.bytes)?;
        Ok(copy)
    }

    /// Overwrites it with values of the host, which may change as soon as this returns. Panics if the sizes differ.
    pub fn overwrite<T: Pod>(&self, values: &[T]) -> Result<(), CardError> {
        assert_eq!(size_of_val(values), self.bytes, "overwrite: bytes");
        self.card.upload(bytemuck::cast_slice(values), self.address)
    }

    /// Overwrites what lies from byte `offset` on. Panics if the values go beyond the end.
    pub fn overwrite_at<T: Pod>(&self, offset: usize, values: &[T]) -> Result<(), CardError> {
        assert!(
            offset + size_of_val(values) <= self.bytes,
            "overwrite_at: {offset} + {}",
            size_of_val(values)
        );
        self.card.upload(bytemuck::cast_slice(values), self.address + offset as u64)
    }

    /// Copies `bytes` from one place in it to another, which do not overlap.
    pub fn copy_within(&self, from: usize, to: usize, bytes: usize) -> Result<(), CardError> {
        assert!(
            from.max(to) + bytes <= self.bytes && from.abs_diff(to) >= bytes,
            "copy_within: {from} to {to}"
        );
        self.card.copy(self.address + from as u64, self.address + to as u64, bytes)
    }

    /// Overwrites it with another of the same size on the same card. Panics if the sizes differ.
    pub(crate) fn overwrite_on_card(&self, from: &CardBuffer) -> Result<(), CardError> {
        assert_eq!(from.bytes, self.bytes, "overwrite: bytes");
        self.card.copy(from.address, self.address, self.bytes)
    }

    /// Waits for the card and copies everything to the host. Panics if the sizes differ.
    pub fn read<T: Pod>(&self, into: &mut [T]) -> Result<(), CardError> {
        assert_eq!(size_of_val(into), self.bytes, "read: bytes");
        self.card.download(self.address, bytemuck::cast_slice_mut(into))
    }

    /// Waits for the card and copies what lies from byte `offset` on. Panics if that goes beyond the end.
    pub fn read_part<T: Pod>(&self, offset: usize, into: &mut [T]) -> Result<(), CardError> {
        assert!(offset + size_of_val(into) <= self.bytes, "read_part: {offset} + {}", size_of_val(into));
        self.card.download(self.address + offset as u64, bytemuck::cast_slice_mut(into))
    }

    /// Asks for everything to be copied to the host, beside what is asked of the card afterwards. The buffer may be
    /// overwritten or dropped meanwhile.
    pub fn read_later(&self) -> Result<CardDownload, CardError> {
        self.card.download_later(self.address, self.bytes)
    }

    /// Sets every byte to zero.
    pub fn clear(&self) -> Result<(), CardError> {
        self.card.clear(self.address, self.bytes)
    }

    /// Where it lies in the card's memory.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its card.
    pub fn card(&self) -> &Card {
        &self.card
    }
}

impl Drop for CardBuffer {
    fn drop(&mut self) {
        if self.pass.is_none() {
            self.card.give(self.address, self.bytes);
        }
    }
}

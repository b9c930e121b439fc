//! Where a tensor's values lie: in a buffer of the pool, or on a card with a copy for the host made when it is asked for.

use crate::cuda::api::driver::DevicePtr;
use crate::cuda::{Block, Card, DType};
use crate::pool::Buffer;
use std::sync::OnceLock;

/// Values on a card.
pub struct OnCard {
    block: Block,
    dtype: DType,
    len: usize,
    /// The values as f32 for the host; empty until somebody asks, and again after a change.
    host: OnceLock<Buffer>,
}

impl OnCard {
    /// Room for `len` values, whatever they are.
    pub fn stale(card: Card, dtype: DType, len: usize) -> Self {
        Self { block: card.block(len * dtype.size()), dtype, len, host: OnceLock::new() }
    }

    /// The f32 values of a block.
    pub fn from_block(block: Block, len: usize) -> Self {
        Self { block, dtype: DType::F32, len, host: OnceLock::new() }
    }

    /// Whose memory it is.
    pub fn card(&self) -> Card {
        self.block.card
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// For kernels that read.
    pub fn at(&self) -> DevicePtr {
        self.block.at()
    }

    /// For kernels that write.
    pub fn at_mut(&mut self) -> DevicePtr {
        self.host.take();
        self.block.at()
    }

    /// The values for the host, waiting for the card the first time.
    pub fn host(&self) -> &Buffer {
        self.host.get_or_init(|| {
            let mut buffer = Buffer::stale(self.len);
            let result = match self.dtype {
                DType::F32 => {
                    let bytes = bytemuck::cast_slice_mut(&mut buffer[..]);
                    self.card().staging().download(self.card(), self.at(), bytes)
                }
                DType::Bf16 => {
                    let mut halves = vec![half::bf16::ZERO; self.len];
                    let bytes = bytemuck::cast_slice_mut(&mut halves);
                    let result = self.card().staging().download(self.card(), self.at(), bytes);
                    buffer.iter_mut().zip(halves).for_each(|(x, half)| *x = half.to_f32());
                    result
                }
            };
            result.unwrap_or_else(|error| panic!("card: {error}"));
            buffer
        })
    }

    /// Copies f32 values of the host to a card.
    pub fn of(card: Card, dtype: DType, values: &[f32]) -> Self {
        let fresh = Self::stale(card, dtype, values.len());
        let result = match dtype {
            DType::F32 => card.staging().upload(card, fresh.at(), bytemuck::cast_slice(values)),
            DType::Bf16 => {
                let halves: Vec<half::bf16> = values.iter().map(|x| half::bf16::from_f32(*x)).collect();
                card.staging().upload(card, fresh.at(), bytemuck::cast_slice(&halves))
            }
        };
        result.unwrap_or_else(|error| panic!("card: {error}"));
        fresh
    }

    /// The same values in a block of their own.
    pub fn copied(&self) -> Self {
        let fresh = Self::stale(self.card(), self.dtype, self.len);
        let result = self.card().copy(fresh.at(), self.at(), self.len * self.dtype.size());
        result.unwrap_or_else(|error| panic!("card: {error}"));
        fresh
    }
}

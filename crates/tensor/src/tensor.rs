//! A contiguous row-major array on a pooled buffer or on a card, shared by reference counting.

use crate::cuda::api::driver::DevicePtr;
use crate::cuda::{Block, Card, DType};
use crate::pool::Buffer;
use crate::storage::OnCard;
use std::sync::Arc;

const MAX_RANK: usize = 4;

/// Contiguous, row-major, reference-counted values: f32 in a buffer of the pool, or f32 or bf16 on a card. Cloning shares
/// them; writing goes through [`Tensor::make_mut`], which copies if they are shared.
///
/// The host reads a tensor of a card like any other: the first look waits for the card and copies. Operators write it.
#[derive(Clone)]
pub struct Tensor {
    dims: [usize; MAX_RANK],
    rank: usize,
    data: Storage,
}

#[derive(Clone)]
enum Storage {
    Host(Arc<Buffer>),
    Card(Arc<OnCard>),
}

impl Tensor {
    fn with_buffer(shape: &[usize], data: Buffer) -> Self {
        Self::with_storage(shape, Storage::Host(Arc::new(data)))
    }

    fn with_storage(shape: &[usize], data: Storage) -> Self {
        assert!(shape.len() <= MAX_RANK, "tensor: rank {} is above {MAX_RANK}", shape.len());
        let mut dims = [1; MAX_RANK];
        dims[..shape.len()].copy_from_slice(shape);
        Self { dims, rank: shape.len(), data }
    }

    /// Copies `data` into a tensor of `shape`. Panics if the lengths differ.
    pub fn from_vec(data: Vec<f32>, shape: &[usize]) -> Self {
        Self::from_slice(&data, shape)
    }

    /// Copies `data` into a tensor of `shape`. Panics if the lengths differ.
    pub fn from_slice(data: &[f32], shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        assert_eq!(data.len(), count, "tensor: {} values do not fill shape {shape:?}", data.len());
        let mut buffer = Buffer::stale(count);
        buffer.copy_from_slice(data);
        Self::with_buffer(shape, buffer)
    }

    /// All zeros.
    pub fn zeros(shape: &[usize]) -> Self {
        Self::with_buffer(shape, Buffer::zeroed(shape.iter().product()))
    }

    /// A tensor whose values are whatever the pool's block held: every value must be written.
    pub fn stale(shape: &[usize]) -> Self {
        Self::with_buffer(shape, Buffer::stale(shape.iter().product()))
    }

    /// A tensor of rank 0.
    pub fn scalar(value: f32) -> Self {
        Self::from_slice(&[value], &[])
    }

    /// Sizes of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Size of the first axis (1 for a scalar).
    pub fn rows(&self) -> usize {
        self.dims[0]
    }

    /// Values in one row: the product of all axes but the first.
    pub fn row_len(&self) -> usize {
        self.dims[1..].iter().product()
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        match &self.data {
            Storage::Host(data) => data.len(),
            Storage::Card(data) => data.len(),
        }
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values, row by row. Of a tensor on a card this is a copy, for which the first call waits.
    pub fn as_slice(&self) -> &[f32] {
        match &self.data {
            Storage::Host(data) => data,
            Storage::Card(data) => data.host(),
        }
    }

    /// Row `i` along the first axis.
    pub fn row(&self, i: usize) -> &[f32] {
        let width = self.row_len();
        &self.as_slice()[i * width..(i + 1) * width]
    }

    /// The single value of a tensor that holds one. Panics otherwise.
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item: shape {:?} holds {} values", self.shape(), self.len());
        self.as_slice()[0]
    }

    /// Writable values if no other tensor shares the buffer. Panics if they lie on a card.
    pub fn get_mut(&mut self) -> Option<&mut [f32]> {
        match &mut self.data {
            Storage::Host(data) => Arc::get_mut(data).map(|buffer| &mut buffer[..]),
            Storage::Card(data) => {
                panic!("tensor: {:?} computes these values; the host cannot write them", data.card())
            }
        }
    }

    /// Writable values; copies first if the buffer is shared. Panics if they lie on a card.
    pub fn make_mut(&mut self) -> &mut [f32] {
        if let Storage::Host(data) = &mut self.data
            && Arc::get_mut(data).is_none()
        {
            let mut copy = Buffer::stale(data.len());
            copy.copy_from_slice(data);
            *data = Arc::new(copy);
        }
        self.get_mut().expect("unique after the copy")
    }

    /// The card that the values lie on.
    pub fn card(&self) -> Option<Card> {
        match &self.data {
            Storage::Host(_) => None,
            Storage::Card(data) => Some(data.card()),
        }
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Storage::Host(_) => DType::F32,
            Storage::Card(data) => data.dtype(),
        }
    }

    /// A tensor on a card whose every value must be written.
    pub(crate) fn stale_on(card: Card, dtype: DType, shape: &[usize]) -> Self {
        let data = OnCard::stale(card, dtype, shape.iter().product());
        Self::with_storage(shape, Storage::Card(Arc::new(data)))
    }

    /// Zeros in f32 on a card.
    pub(crate) fn zeros_on(card: Card, shape: &[usize]) -> Self {
        let mut zeros = Self::stale_on(card, DType::F32, shape);
        let bytes = 4 * zeros.len();
        card.fill(zeros.at_mut(), 0, bytes).unwrap_or_else(|error| panic!("card: {error}"));
        zeros
    }

    /// A scalar that a card has computed.
    pub(crate) fn scalar_on_card(block: Block) -> Self {
        Self::with_storage(&[], Storage::Card(Arc::new(OnCard::from_block(block, 1))))
    }

    /// The values on a card, rounded to a type; the tensor itself if they lie there already.
    pub fn to_card(&self, card: Card, dtype: DType) -> Self {
        match &self.data {
            Storage::Card(_) => self.clone(),
            Storage::Host(data) => {
                Self::with_storage(self.shape(), Storage::Card(Arc::new(OnCard::of(card, dtype, data))))
            }
        }
    }

    /// Address on the card, for kernels that read. Panics for values of the host: a bug of the operator.
    pub(crate) fn at(&self) -> DevicePtr {
        match &self.data {
            Storage::Card(data) => data.at(),
            Storage::Host(_) => {
                panic!("tensor: {:?} lies in the host's memory, not on the card", self.shape())
            }
        }
    }

    /// Address on the card, for kernels that write; copies first if the values are shared.
    pub(crate) fn at_mut(&mut self) -> DevicePtr {
        match &mut self.data {
            Storage::Card(data) => {
                if Arc::get_mut(data).is_none() {
                    *data = Arc::new(data.copied());
                }
                Arc::get_mut(data).expect("unique after the copy").at_mut()
            }
            Storage::Host(_) => panic!("tensor: these values lie in the host's memory, not on the card"),
        }
    }

    /// Whether nobody else holds the values.
    pub(crate) fn is_unique(&mut self) -> bool {
        match &mut self.data {
            Storage::Host(data) => Arc::get_mut(data).is_some(),
            Storage::Card(data) => Arc::get_mut(data).is_some(),
        }
    }

    /// The same values under another shape of the same size.
    pub fn reshaped(&self, shape: &[usize]) -> Self {
        let count: usize = shape.iter().product();
        assert_eq!(self.len(), count, "reshape: {:?} into {shape:?}", self.shape());
        assert!(shape.len() <= MAX_RANK, "reshape: rank {} is above {MAX_RANK}", shape.len());
        let mut dims = [1; MAX_RANK];
        dims[..shape.len()].copy_from_slice(shape);
        Self { dims, rank: shape.len(), data: self.data.clone() }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Storage::Card(data) = &self.data {
            return write!(f, "Tensor{:?} {:?} on {:?}", self.shape(), data.dtype(), data.card());
        }
        let head = &self.as_slice()[..self.len().min(8)];
        write!(f, "Tensor{:?} {head:?}{}", self.shape(), if self.len() > 8 { " .." } else { "" })
    }
}

//! A contiguous row-major array on a pooled buffer of the host or in a card's memory, shared by reference counting.

use crate::cuda::{Arg, Card, CardBuffer, DType, THREADS, expect};
use crate::pool::Buffer;
use std::sync::Arc;

const MAX_RANK: usize = 4;

/// Where the values are.
#[derive(Clone)]
enum Storage {
    /// f32, in the host's memory.
    Host(Arc<Buffer>),
    /// In a card's memory.
    Card(Arc<CardBuffer>, DType),
}

/// Contiguous, row-major, reference-counted values. Cloning shares the buffer; writing goes through
/// [`Tensor::make_mut`], which copies if it is shared.
///
/// Values are f32 in the host's memory, or f32 or bf16 in a card's, where operators on parameters of a card leave them;
/// [`Tensor::to_host`] brings them back.
#[derive(Clone)]
pub struct Tensor {
    dims: [usize; MAX_RANK],
    rank: usize,
    data: Storage,
}

impl Tensor {
    fn with_storage(shape: &[usize], data: Storage) -> Self {
        assert!(shape.len() <= MAX_RANK, "tensor: rank {} is above {MAX_RANK}", shape.len());
        let mut dims = [1; MAX_RANK];
        dims[..shape.len()].copy_from_slice(shape);
        Self { dims, rank: shape.len(), data }
    }

    fn with_buffer(shape: &[usize], data: Buffer) -> Self {
        Self::with_storage(shape, Storage::Host(Arc::new(data)))
    }

    fn host(&self) -> &Arc<Buffer> {
        match &self.data {
            Storage::Host(buffer) => buffer,
            Storage::Card(..) => panic!(
                "tensor: the values of {:?} are on a card; to_host() copies them to the host",
                self.shape()
            ),
        }
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
            Storage::Host(buffer) => buffer.len(),
            Storage::Card(buffer, dtype) => buffer.bytes() / dtype.size(),
        }
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All values, row by row. Panics if they are on a card.
    pub fn as_slice(&self) -> &[f32] {
        self.host()
    }

    /// Row `i` along the first axis. Panics if the values are on a card.
    pub fn row(&self, i: usize) -> &[f32] {
        let width = self.row_len();
        &self.host()[i * width..(i + 1) * width]
    }

    /// The single value of a tensor that holds one, wherever it is. Panics otherwise.
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item: shape {:?} holds {} values", self.shape(), self.len());
        self.to_host().as_slice()[0]
    }

    /// Whether the values are in the host's memory, so that reading them waits for nothing.
    pub fn is_on_host(&self) -> bool {
        matches!(self.data, Storage::Host(_))
    }

    /// The values in the host's memory: this tensor itself, or a copy of what the card has, which is waited for.
    pub fn to_host(&self) -> Self {
        let Storage::Card(buffer, dtype) = &self.data else { return self.clone() };
        let mut copy = Self::stale(self.shape());
        let values = copy.make_mut();
        match dtype {
            DType::F32 => expect(buffer.read(values)),
            DType::Bf16 => {
                let mut halves = vec![0u16; values.len()];
                expect(buffer.read(&mut halves));
                for (value, half) in values.iter_mut().zip(halves) {
                    *value = f32::from_bits(u32::from(half) << 16);
                }
            }
        }
        copy
    }

    /// Writable values if no other tensor shares the buffer. Panics if they are on a card.
    pub fn get_mut(&mut self) -> Option<&mut [f32]> {
        self.host();
        let Storage::Host(buffer) = &mut self.data else { unreachable!("it is on the host") };
        Arc::get_mut(buffer).map(|buffer| &mut buffer[..])
    }

    /// Writable values; copies first if the buffer is shared.
    pub fn make_mut(&mut self) -> &mut [f32] {
        if self.get_mut().is_none() {
            let mut copy = Buffer::stale(self.len());
            copy.copy_from_slice(self.host());
            self.data = Storage::Host(Arc::new(copy));
        }
        self.get_mut().expect("unique after the copy")
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

/// On a card. A card that fails ends the operator with a panic that says what to do.
impl Tensor {
    /// Values of unspecified content in a card's memory.
    pub(crate) fn stale_on(card: &Card, dtype: DType, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Self::with_storage(shape, Storage::Card(Arc::new(expect(CardBuffer::stale(card, bytes))), dtype))
    }

    /// Zeros in a card's memory.
    pub(crate) fn zeros_on(card: &Card, dtype: DType, shape: &[usize]) -> Self {
        let bytes = shape.iter().product::<usize>() * dtype.size();
        Self::with_storage(shape, Storage::Card(Arc::new(expect(CardBuffer::zeroed(card, bytes))), dtype))
    }

    /// The values as `dtype` on a card: this tensor itself if that is what it is.
    pub(crate) fn on_card(&self, card: &Card, dtype: DType) -> Self {
        match &self.data {
            Storage::Card(_, mine) if *mine == dtype => self.clone(),
            Storage::Card(buffer, mine) => {
                let to = Self::stale_on(card, dtype, self.shape());
                let kernel = if *mine == DType::F32 { "from_f32" } else { "to_f32" };
                let blocks = (self.len().div_ceil(THREADS), 1);
                let arguments = [Arg::from(&**buffer), to.arg(), self.len().into()];
                expect(card.launch(DType::Bf16, kernel, blocks, &arguments));
                to
            }
            Storage::Host(buffer) => {
                let on_card = Arc::new(expect(CardBuffer::from_host(card, buffer)));
                Self::with_storage(self.shape(), Storage::Card(on_card, DType::F32)).on_card(card, dtype)
            }
        }
    }

    /// The card that it is on.
    pub(crate) fn card(&self) -> Option<&Card> {
        match &self.data {
            Storage::Host(_) => None,
            Storage::Card(buffer, _) => Some(buffer.card()),
        }
    }

    /// Its values in a card's memory, and what they are stored as. Panics if it is on the host.
    pub(crate) fn place(&self) -> (&CardBuffer, DType) {
        match &self.data {
            Storage::Card(buffer, dtype) => (buffer, *dtype),
            Storage::Host(_) => panic!("tensor: the values of {:?} are on the host", self.shape()),
        }
    }

    /// Its address in a card's memory, for a kernel. Panics if it is on the host.
    pub(crate) fn arg(&self) -> Arg {
        self.place().0.into()
    }

    /// Overwrites the values with those of a tensor of the same shape and type on the same card, for everybody who shares
    /// them. Panics if it is not one.
    pub fn assign(&self, other: &Tensor) {
        let ((to, dtype), (from, other_dtype)) = (self.place(), other.place());
        assert!(
            self.shape() == other.shape() && dtype == other_dtype,
            "assign: {:?} as {dtype:?} from {:?} as {other_dtype:?}",
            self.shape(),
            other.shape()
        );
        expect(to.overwrite_on_card(from));
    }

    /// Makes sure that nobody else sees what is written to it from now on: copies on the card if the buffer is shared.
    pub(crate) fn make_unique(&mut self) {
        let Storage::Card(buffer, _) = &mut self.data else { panic!("tensor: the values are on the host") };
        if Arc::get_mut(buffer).is_none() {
            *buffer = Arc::new(expect(buffer.copied()));
        }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Storage::Host(data) = &self.data else {
            return write!(f, "Tensor{:?} on a card", self.shape());
        };
        let head = &data[..self.len().min(8)];
        write!(f, "Tensor{:?} {head:?}{}", self.shape(), if self.len() > 8 { " .." } else { "" })
    }
}

//! A contiguous row-major f32 array on a pooled buffer, shared by reference counting.

use crate::pool::Buffer;
use std::sync::Arc;

const MAX_RANK: usize = 4;

/// Contiguous, row-major, reference-counted f32 values. Cloning shares the buffer; writing goes through
/// [`Tensor::make_mut`], which copies if it is shared.
#[derive(Clone)]
pub struct Tensor {
    dims: [usize; MAX_RANK],
    rank: usize,
    data: Arc<Buffer>,
}

impl Tensor {
    fn with_buffer(shape: &[usize], data: Buffer) -> Self {
        assert!(shape.len() <= MAX_RANK, "tensor: rank {} is above {MAX_RANK}", shape.len());
        let mut dims = [1; MAX_RANK];
        dims[..shape.len()].copy_from_slice(shape);
        Self { dims, rank: shape.len(), data: Arc::new(data) }
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
        self.data.len()
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// All values, row by row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// Row `i` along the first axis.
    pub fn row(&self, i: usize) -> &[f32] {
        let width = self.row_len();
        &self.data[i * width..(i + 1) * width]
    }

    /// The single value of a tensor that holds one. Panics otherwise.
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item: shape {:?} holds {} values", self.shape(), self.len());
        self.data[0]
    }

    /// Writable values if no other tensor shares the buffer.
    pub fn get_mut(&mut self) -> Option<&mut [f32]> {
        Arc::get_mut(&mut self.data).map(|buffer| &mut buffer[..])
    }

    /// Writable values; copies first if the buffer is shared.
    pub fn make_mut(&mut self) -> &mut [f32] {
        if Arc::get_mut(&mut self.data).is_none() {
            let mut copy = Buffer::stale(self.len());
            copy.copy_from_slice(&self.data);
            self.data = Arc::new(copy);
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
        Self { dims, rank: shape.len(), data: Arc::clone(&self.data) }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let head = &self.data[..self.len().min(8)];
        write!(f, "Tensor{:?} {head:?}{}", self.shape(), if self.len() > 8 { " .." } else { "" })
    }
}

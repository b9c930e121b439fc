//! An operation graph as it is put together: tensors, and the operations between them.

use super::backend::{Backend, Descriptor};
use super::names::{Data, Pointwise, Reduce, attribute, kind};
use crate::cuda::CardError;
use std::sync::Arc;

/// Tensors begin at multiples of so many bytes.
const ALIGNMENT: i64 = 16;
/// Unique ids of tensors inside a graph begin here; those of roles are below.
const FIRST_INSIDE: i64 = 1000;

/// What a tensor is whose place is given when the graph runs. `h` query heads share `kv` key/value heads; a batch has `b`
/// sequences of `s` rows at most, of which there are `t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub(super) enum Role {
    /// bf16 `[b, h, s, hd]`
    Q,
    /// bf16 `[b, kv, s, hd]`
    K,
    V,
    /// bf16 `[b, h, s, hd]`
    Out,
    /// f32 `[b, h, s, 1]`: logarithm of the sum of a row's exponentials.
    Stats,
    DOut,
    DQ,
    DK,
    DV,
    /// f32 `[b, h, s, 1]`: a row of `Out` times that of `DOut`.
    Delta,
    /// f32 `[b, h, s, hd]`: `DQ` while it is summed.
    DQSum,
    /// bf16 `[b, h, s, hd]`: `DK` and `DV` of each query head.
    DKHeads,
    DVHeads,
    /// i32 `[b]`: rows of each sequence.
    LengthsQ,
    LengthsK,
    /// i32 `[b + 1]`: where each sequence begins, and where the last ends, in values of the tensors that have them.
    OffsetsQkv,
    OffsetsOut,
    OffsetsStats,
    OffsetsKv,
    /// f32, by value.
    Scale,
    Least,
    One,
}

impl Role {
    pub const COUNT: usize = Role::One as usize + 1;
}

/// A tensor of a graph: its descriptor and its layout.
#[derive(Clone, Copy)]
pub(super) struct Tensor {
    descriptor: usize,
    pub dims: [usize; 4],
    pub strides: [usize; 4],
    data: Data,
}

/// Sequence lengths that take the place of a product's sizes `m`, `n` and `k`, one for each matrix of the batch.
pub(super) type Sizes = [Option<Tensor>; 3];

pub(super) struct Graph {
    backend: Arc<Backend>,
    /// Every descriptor, alive as long as the graph.
    all: Vec<Descriptor>,
    operations: Vec<usize>,
    inside: i64,
    outside: Vec<Role>,
}

impl Graph {
    pub fn new(backend: &Arc<Backend>) -> Self {
        let (all, operations, outside) = Default::default();
        Self { backend: Arc::clone(backend), all, operations, inside: 0, outside }
    }

    /// The tensors whose places must be given.
    pub fn outside(&self) -> &[Role] {
        &self.outside
    }

    fn keep(&mut self, descriptor: Descriptor) -> usize {
        self.all.push(descriptor);
        self.all.len() - 1
    }

    fn tensor(
        &mut self,
        id: i64,
        data: Data,
        dims: [usize; 4],
        strides: [usize; 4],
        more: impl FnOnce(&Self, &Descriptor) -> Result<(), CardError>,
    ) -> Result<Tensor, CardError> {
        let tensor = Descriptor::new(&self.backend, kind::TENSOR)?;
        tensor
            .set(attribute::TENSOR_UNIQUE_ID, &[id])?
            .set(attribute::TENSOR_DATA_TYPE, &[data as i32])?
            .set(attribute::TENSOR_BYTE_ALIGNMENT, &[ALIGNMENT])?
            .set(attribute::TENSOR_DIMENSIONS, &dims.map(|size| size as i64))?
            .set(attribute::TENSOR_STRIDES, &strides.map(|stride| stride as i64))?;
        more(self, &tensor)?;
        tensor.finalize()?;
        Ok(Tensor { descriptor: self.keep(tensor), dims, strides, data })
    }

    /// A tensor in memory. With `offsets`, those of its sequences begin there instead of at equal distances.
    pub fn given(
        &mut self,
        role: Role,
        data: Data,
        dims: [usize; 4],
        strides: [usize; 4],
        offsets: Option<Tensor>,
    ) -> Result<Tensor, CardError> {
        self.outside.push(role);
        self.tensor(role as i64, data, dims, strides, |graph, tensor| {
            if let Some(offsets) = offsets {
                let offsets = &graph.all[offsets.descriptor];
                tensor.link(attribute::TENSOR_RAGGED_OFFSET_DESC, &[offsets])?;
            }
            Ok(())
        })
    }

    /// A number that is given when the graph runs.
    pub fn number(&mut self, role: Role) -> Result<Tensor, CardError> {
        self.outside.push(role);
        self.tensor(role as i64, Data::F32, [1; 4], [1; 4], |_, tensor| {
            tensor.set(attribute::TENSOR_IS_BY_VALUE, &[1u8]).map(drop)
        })
    }

    /// A tensor that only operations of the graph see.
    pub fn between(
        &mut self,
        data: Data,
        dims: [usize; 4],
        strides: [usize; 4],
        offsets: Option<Tensor>,
    ) -> Result<Tensor, CardError> {
        self.inside += 1;
        self.tensor(FIRST_INSIDE + self.inside, data, dims, strides, |graph, tensor| {
            if let Some(offsets) = offsets {
                let offsets = &graph.all[offsets.descriptor];
                tensor.link(attribute::TENSOR_RAGGED_OFFSET_DESC, &[offsets])?;
            }
            tensor.set(attribute::TENSOR_IS_VIRTUAL, &[1u8]).map(drop)
        })
    }

    /// Adds an operation: its kind, what it does, and its tensors.
    fn operation(
        &mut self,
        of: super::names::Kind,
        links: &[(super::names::Attribute, usize)],
    ) -> Result<(), CardError> {
        let operation = Descriptor::new(&self.backend, of)?;
        for (attribute, descriptor) in links {
            operation.link(*attribute, &[&self.all[*descriptor]])?;
        }
        operation.finalize()?;
        let place = self.keep(operation);
        self.operations.push(place);
        Ok(())
    }

    fn pointwise_of(
        &mut self,
        mode: Pointwise,
        axis: Option<i64>,
        tensors: [Option<Tensor>; 3],
        y: Tensor,
    ) -> Result<Tensor, CardError> {
        let math = if y.data == Data::Bf16 { Data::F32 } else { y.data };
        let what = Descriptor::new(&self.backend, kind::POINTWISE)?;
        what.set(attribute::POINTWISE_MODE, &[mode as i32])?
            .set(attribute::POINTWISE_MATH_PREC, &[math as i32])?;
        if let Some(axis) = axis {
            what.set(attribute::POINTWISE_AXIS, &[axis])?;
        }
        what.finalize()?;
        let what = self.keep(what);
        let mut links = vec![(attribute::OPERATION_POINTWISE_PW_DESCRIPTOR, what)];
        let names = [
            attribute::OPERATION_POINTWISE_XDESC,
            attribute::OPERATION_POINTWISE_BDESC,
            attribute::OPERATION_POINTWISE_TDESC,
        ];
        links.extend(names.into_iter().zip(tensors).filter_map(|(name, t)| Some((name, t?.descriptor))));
        links.push((attribute::OPERATION_POINTWISE_YDESC, y.descriptor));
        self.operation(kind::OPERATION_POINTWISE, &links)?;
        Ok(y)
    }

    /// `y = mode(x, b)` into a tensor that is there already.
    pub fn pointwise_to(
        &mut self,
        mode: Pointwise,
        x: Tensor,
        b: Option<Tensor>,
        y: Tensor,
    ) -> Result<Tensor, CardError> {
        self.pointwise_of(mode, None, [Some(x), b, None], y)
    }

    /// `mode(x, b)`, laid out as `x`.
    pub fn pointwise(
        &mut self,
        mode: Pointwise,
        x: Tensor,
        b: Option<Tensor>,
        data: Data,
    ) -> Result<Tensor, CardError> {
        let y = self.between(data, x.dims, x.strides, None)?;
        self.pointwise_to(mode, x, b, y)
    }

    /// The number of each value along an axis of `like`.
    pub fn index(&mut self, like: Tensor, axis: i64) -> Result<Tensor, CardError> {
        let y = self.between(Data::I32, like.dims, like.strides, None)?;
        self.pointwise_of(Pointwise::Index, Some(axis), [Some(like), None, None], y)
    }

    /// `x` where `seen`, else `otherwise`.
    pub fn select(&mut self, x: Tensor, otherwise: Tensor, seen: Tensor) -> Result<Tensor, CardError> {
        let y = self.between(Data::F32, x.dims, x.strides, None)?;
        self.pointwise_of(Pointwise::Select, None, [Some(x), Some(otherwise), Some(seen)], y)
    }

    /// `c = a b`, summed in f32. `zeros` says that what lies beyond a sequence's length counts as zero.
    pub fn product(
        &mut self,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        sizes: Sizes,
        zeros: bool,
    ) -> Result<Tensor, CardError> {
        let what = Descriptor::new(&self.backend, kind::MATMUL)?;
        what.set(attribute::MATMUL_COMP_TYPE, &[Data::F32 as i32])?;
        if zeros {
            what.set(attribute::MATMUL_PADDING_VALUE, &[0f64])?;
        }
        what.finalize()?;
        let what = self.keep(what);
        let mut links = vec![
            (attribute::OPERATION_MATMUL_ADESC, a.descriptor),
            (attribute::OPERATION_MATMUL_BDESC, b.descriptor),
            (attribute::OPERATION_MATMUL_CDESC, c.descriptor),
            (attribute::OPERATION_MATMUL_DESC, what),
        ];
        let names = [
            attribute::OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC,
            attribute::OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC,
            attribute::OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC,
        ];
        links.extend(names.into_iter().zip(sizes).filter_map(|(name, t)| Some((name, t?.descriptor))));
        self.operation(kind::OPERATION_MATMUL, &links)?;
        Ok(c)
    }

    /// Reduces along the axes in which `y` has one value.
    pub fn reduce(&mut self, with: Reduce, x: Tensor, y: Tensor) -> Result<Tensor, CardError> {
        let what = Descriptor::new(&self.backend, kind::REDUCTION)?;
        what.set(attribute::REDUCTION_OPERATOR, &[with as i32])?
            .set(attribute::REDUCTION_COMP_TYPE, &[Data::F32 as i32])?
            .finalize()?;
        let what = self.keep(what);
        let links = [
            (attribute::OPERATION_REDUCTION_DESC, what),
            (attribute::OPERATION_REDUCTION_XDESC, x.descriptor),
            (attribute::OPERATION_REDUCTION_YDESC, y.descriptor),
        ];
        self.operation(kind::OPERATION_REDUCTION, &links)?;
        Ok(y)
    }

    /// The values of `x` seen as `y`.
    pub fn reshape(&mut self, x: Tensor, y: Tensor) -> Result<Tensor, CardError> {
        let links = [
            (attribute::OPERATION_RESHAPE_XDESC, x.descriptor),
            (attribute::OPERATION_RESHAPE_YDESC, y.descriptor),
        ];
        self.operation(kind::OPERATION_RESHAPE, &links)?;
        Ok(y)
    }

    /// The descriptor of the whole, not finalised.
    pub fn descriptor(&self) -> Result<Descriptor, CardError> {
        let graph = Descriptor::new(&self.backend, kind::OPERATIONGRAPH)?;
        let operations: Vec<&Descriptor> = self.operations.iter().map(|place| &self.all[*place]).collect();
        graph.link(attribute::OPERATIONGRAPH_OPS, &operations)?;
        Ok(graph)
    }
}

//! Matrix products by cuBLASLt: one plan for each shape, with the algorithm that the library's heuristic puts first.

use super::calls::{Address, CublasLtCalls, Handle, Status};
use super::{CardError, DType, Library};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

/// Memory that algorithms may use, as NVIDIA advises for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

// From cublasLt.h and library_types.h.
const COMPUTE_32F: i32 = 68;
const R_32F: i32 = 0;
const R_16BF: i32 = 14;
const DESC_TRANSA: i32 = 3;
const DESC_TRANSB: i32 = 4;
const PREFERENCE_WORKSPACE: i32 = 1;
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// A matrix in row-major order, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mat {
    pub address: u64,
    pub dtype: DType,
    /// Values from one stored row to the next.
    pub stride: usize,
    /// Whether the product sees the transpose of what is stored.
    pub transposed: bool,
}

impl Mat {
    /// As it is stored.
    pub fn rows(address: u64, dtype: DType, stride: usize) -> Self {
        Self { address, dtype, stride, transposed: false }
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// `out [m, n] = a [m, k] b [k, n] + add [m, n]`, summed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    /// `m`, `n`, `k`.
    pub sizes: (usize, usize, usize),
    pub a: Mat,
    pub b: Mat,
    pub out: Mat,
    /// Address of what is added, laid out as `out`: `out` itself, another matrix, or none.
    pub add: Option<u64>,
}

impl Product {
    fn key(&self) -> Key {
        let of = |mat: &Mat| (mat.dtype, mat.stride, mat.transposed);
        Key { sizes: self.sizes, operands: [of(&self.a), of(&self.b), of(&self.out)] }
    }
}

/// What a plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: (usize, usize, usize),
    operands: [(DType, usize, bool); 3],
}

struct Plan {
    desc: Handle,
    /// Of the first and second operand as cuBLAS counts, and of the output.
    layouts: [Handle; 3],
    algorithm: Algorithm,
}

/// cublasLtMatmulAlgo_t.
#[repr(C)]
#[derive(Clone, Copy)]
struct Algorithm([u64; 8]);

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    state: Status,
    waves: f32,
    reserved: [i32; 4],
}

pub(super) struct Products {
    calls: CublasLtCalls,
    handle: Handle,
    preference: Handle,
    workspace: Address,
    /// Shapes repeat from step to step; plans are kept until the process ends.
    plans: HashMap<Key, Plan>,
}

impl DType {
    fn cuda(self) -> i32 {
        match self {
            DType::F32 => R_32F,
            DType::Bf16 => R_16BF,
        }
    }
}

/// Calls a function of cuBLASLt and checks its answer.
macro_rules! cublas {
    ($calls:expr, $function:ident($($argument:expr),*)) => {{
        let calls = &$calls;
        // SAFETY: the arguments are of the header's types; pointers are to live variables, addresses to live memory.
        let code = unsafe { (calls.$function.call)($($argument),*) };
        check(calls.$function.name, code)
    }};
}

impl Products {
    /// The context must be set.
    pub fn new(library: &Library) -> Result<Self, CardError> {
        let calls = CublasLtCalls::of(library)?;
        let (mut handle, mut preference) = (ptr::null_mut(), ptr::null_mut());
        cublas!(calls, create(&mut handle))?;
        cublas!(calls, preference_create(&mut preference))?;
        let bytes = ptr::from_ref(&WORKSPACE).cast();
        cublas!(calls, preference_set(preference, PREFERENCE_WORKSPACE, bytes, size_of::<usize>()))?;
        Ok(Self { calls, handle, preference, workspace: 0, plans: HashMap::new() })
    }

    pub fn needs_workspace(&self) -> bool {
        self.workspace == 0
    }

    pub fn set_workspace(&mut self, address: Address) {
        self.workspace = address;
    }

    /// Whether it is decided how products of this shape are made.
    pub fn is_planned(&self, product: &Product) -> bool {
        self.plans.contains_key(&product.key())
    }

    /// Decides it.
    pub fn plan(&mut self, product: &Product) -> Result<(), CardError> {
        let plan = self.make_plan(product)?;
        self.plans.insert(product.key(), plan);
        Ok(())
    }

    /// Asks for a product that is planned. Row-major matrices are the transposes of what cuBLAS sees, so it computes
    /// `out^T = b^T a^T`.
    pub fn run(&self, stream: Handle, call: &Product) -> Result<(), CardError> {
        let plan = self.plans.get(&call.key()).expect("it was planned when it was asked for");
        let (alpha, beta) = (1f32, if call.add.is_some() { 1f32 } else { 0f32 });
        let [first, second, out] = plan.layouts;
        let alpha = ptr::from_ref(&alpha).cast::<c_void>();
        let beta = ptr::from_ref(&beta).cast::<c_void>();
        let algorithm = ptr::from_ref(&plan.algorithm).cast::<c_void>();
        let Product { a, b, out: o, .. } = call;
        let added = call.add.unwrap_or(o.address);
        cublas!(
            self.calls,
            matmul(
                self.handle,
                plan.desc,
                alpha,
                b.address,
                first,
                a.address,
                second,
                beta,
                added,
                out,
                o.address,
                out,
                algorithm,
                self.workspace,
                WORKSPACE,
                stream
            )
        )
    }

    fn make_plan(&self, call: &Product) -> Result<Plan, CardError> {
        let (m, n, k) = call.sizes;
        assert!(k > 0 && !call.out.transposed, "product: {call:?}");
        let mut desc = ptr::null_mut();
        cublas!(self.calls, desc_create(&mut desc, COMPUTE_32F, R_32F))?;
        for (attribute, mat) in [(DESC_TRANSA, call.b), (DESC_TRANSB, call.a)] {
            let operation = if mat.transposed { OP_T } else { OP_N };
            let operation = ptr::from_ref(&operation).cast();
            cublas!(self.calls, desc_set(desc, attribute, operation, size_of::<i32>()))?;
        }
        // Sizes as stored, which are those of the transpose in the order of columns.
        let layout = |mat: &Mat, rows: usize, columns: usize| {
            let (rows, columns) = if mat.transposed { (columns, rows) } else { (rows, columns) };
            let mut layout = ptr::null_mut();
            let stride = mat.stride as i64;
            cublas!(
                self.calls,
                layout_create(&mut layout, mat.dtype.cuda(), columns as u64, rows as u64, stride)
            )?;
            Ok::<_, CardError>(layout)
        };
        let layouts = [layout(&call.b, k, n)?, layout(&call.a, m, k)?, layout(&call.out, m, n)?];
        let mut found = std::mem::MaybeUninit::<Heuristic>::zeroed();
        let (mut count, [first, second, out]) = (0, layouts);
        let result = found.as_mut_ptr().cast();
        let preference = self.preference;
        cublas!(
            self.calls,
            heuristic(self.handle, desc, first, second, out, out, preference, 1, result, &mut count)
        )?;
        // SAFETY: all zeros are a value of every field.
        let found = unsafe { found.assume_init() };
        if count < 1 || found.state != 0 {
            let text = format!("no algorithm for the product {call:?} (state {})", found.state);
            let call = self.calls.heuristic.name;
            return Err(CardError::Call { call, code: found.state, text });
        }
        Ok(Plan { desc, layouts, algorithm: found.algorithm })
    }
}

fn check(call: &'static str, code: Status) -> Result<(), CardError> {
    let text = match code {
        0 => return Ok(()),
        1 => "cuBLASLt is not initialised (no card, or no memory on it)",
        3 => "no memory on the host",
        7 => "a size or type that cuBLASLt does not take",
        8 => "the card's architecture is not supported by this cuBLASLt",
        13 => "the card failed to run it",
        15 => "cuBLASLt does not support this product on this card",
        _ => "cuBLASLt refused",
    };
    Err(CardError::Call { call, code, text: text.into() })
}

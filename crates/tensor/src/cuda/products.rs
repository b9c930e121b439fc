//! Matrix products by cuBLASLt, on row-major matrices: what is asked once for a shape is kept.

use super::api::cublaslt::{self as lt, CublasLt, Heuristic};
use super::api::driver::{DevicePtr, Handle};
use super::card::Pointer;
use super::memory::Block;
use super::{Card, DType, Error};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

/// Bytes for algorithms that split the inner dimension; NVIDIA recommends 32 MiB on Hopper.
const WORKSPACE: usize = 32 << 20;

/// A row-major matrix as an operand.
#[derive(Clone, Copy)]
pub struct Operand {
    /// Its first value.
    pub at: DevicePtr,
    /// Type of its values.
    pub dtype: DType,
    /// Whether its transpose is meant: stored are the columns.
    pub transposed: bool,
}

/// `out [m, n] = a [m, k] b [k, n] (+ add)`.
#[derive(Clone, Copy)]
pub struct Product {
    /// Rows and columns of the output, terms of its sums.
    pub sizes: (usize, usize, usize),
    /// Left.
    pub a: Operand,
    /// Right.
    pub b: Operand,
    /// What is added: a matrix like the output, or the output itself.
    pub add: Option<DevicePtr>,
    /// The output.
    pub out: DevicePtr,
    /// Type of the output and of what is added.
    pub out_type: DType,
}

type Key = ((usize, usize, usize), [(DType, bool); 2], DType, bool, [u32; 4]);

struct Plan {
    desc: Pointer,
    layouts: [Pointer; 3],
    algorithm: [u64; 8],
    workspace: usize,
}

/// cuBLASLt on one card.
pub struct Products {
    card: Card,
    library: CublasLt,
    handle: Pointer,
    workspace: Block,
    plans: Mutex<HashMap<Key, Plan>>,
    tf32: bool,
}

fn code(dtype: DType) -> c_int {
    match dtype {
        DType::F32 => lt::F32,
        DType::Bf16 => lt::BF16,
    }
}

/// Bytes that the operands are aligned to: parts of buffers (one parameter, one chunk of rows) begin where they begin.
fn alignments(p: &Product) -> [u32; 4] {
    [p.b.at, p.a.at, p.add.unwrap_or(p.out), p.out].map(|at| 1 << at.trailing_zeros().min(8))
}

impl Products {
    /// Opens the library. f32 products are exact unless `HERD_CUDA_TF32` is set.
    pub fn open(card: Card) -> Result<Self, Error> {
        let library = CublasLt::open()?;
        let mut handle = std::ptr::null_mut();
        card.driver();
        // SAFETY: a pointer to a live variable; the context is current.
        unsafe { library.create(&mut handle)? };
        let workspace = Block::new(card, WORKSPACE)?;
        let tf32 = std::env::var_os("HERD_CUDA_TF32").is_some();
        Ok(Self { card, library, handle: Pointer(handle), workspace, plans: Mutex::default(), tf32 })
    }

    /// Enqueues a product. Panics if the library refuses.
    pub fn run(&self, product: &Product) {
        let (m, n, k) = product.sizes;
        if m * n * k == 0 {
            return;
        }
        self.try_run(product).unwrap_or_else(|error| panic!("card: product {m} x {n} x {k}: {error}"));
    }

    fn try_run(&self, p: &Product) -> Result<(), Error> {
        let kinds = [(p.a.dtype, p.a.transposed), (p.b.dtype, p.b.transposed)];
        let key = (p.sizes, kinds, p.out_type, p.add.is_some(), alignments(p));
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = match plans.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(self.plan(p)?),
        };
        let (one, beta) = (1.0f32, if p.add.is_some() { 1.0f32 } else { 0.0 });
        let [b, a, out] = plan.layouts;
        let stream = self.card.compute();
        // The library works in the context of this thread.
        self.card.driver();
        // SAFETY: all addresses are live blocks' with room for the matrices that the layouts describe. In memory ordered
        // by columns, as the library sees it, the output's transpose is `b^T a^T`.
        unsafe {
            self.library.matmul(
                self.handle.0,
                plan.desc.0,
                (&raw const one).cast(),
                p.b.at,
                b.0,
                p.a.at,
                a.0,
                (&raw const beta).cast(),
                p.add.unwrap_or(p.out),
                out.0,
                p.out,
                out.0,
                plan.algorithm.as_ptr(),
                self.workspace.at(),
                plan.workspace,
                stream,
            )
        }
    }

    fn plan(&self, p: &Product) -> Result<Plan, Error> {
        let (m, n, k) = p.sizes;
        let lt = &self.library;
        let exact = !self.tf32 || p.a.dtype != DType::F32;
        let compute = if exact { lt::COMPUTE_F32 } else { lt::COMPUTE_TF32 };
        let mut desc: Handle = std::ptr::null_mut();
        // Rows and columns in the library's order: those of the transpose of what is stored by rows.
        let layout = |operand: DType, rows: usize, columns: usize| {
            let mut layout: Handle = std::ptr::null_mut();
            // SAFETY: a pointer to a live variable.
            unsafe {
                lt.layout_create(&mut layout, code(operand), rows as u64, columns as u64, rows as i64)?
            };
            Ok::<_, Error>(Pointer(layout))
        };
        let stored = |operand: Operand, rows: usize, columns: usize| match operand.transposed {
            false => layout(operand.dtype, columns, rows),
            true => layout(operand.dtype, rows, columns),
        };
        let layouts = [stored(p.b, k, n)?, stored(p.a, m, k)?, layout(p.out_type, n, m)?];
        let mut preference: Handle = std::ptr::null_mut();
        let mut found = 0;
        let none = Heuristic { algorithm: [0; 8], workspace: 0, state: -1, waves: 0.0, reserved: [0; 4] };
        let mut best = [none];
        // SAFETY: pointers to live variables, whose sizes are told.
        unsafe {
            lt.desc_create(&mut desc, compute, lt::F32)?;
            for (attribute, operand) in lt::TRANSPOSE.into_iter().zip([p.b, p.a]) {
                let transpose = c_int::from(operand.transposed);
                lt.desc_set(desc, attribute, (&raw const transpose).cast(), 4)?;
            }
            lt.preference_create(&mut preference)?;
            let most = WORKSPACE as u64;
            lt.preference_set(preference, lt::MAX_WORKSPACE, (&raw const most).cast(), 8)?;
            for (attribute, alignment) in lt::MIN_ALIGNMENT.into_iter().zip(alignments(p)) {
                lt.preference_set(preference, attribute, (&raw const alignment).cast(), 4)?;
            }
            let [b, a, out] = layouts;
            lt.heuristic(
                self.handle.0,
                desc,
                b.0,
                a.0,
                out.0,
                out.0,
                preference,
                1,
                best.as_mut_ptr(),
                &mut found,
            )?;
            lt.preference_destroy(preference)?;
        }
        if found < 1 || best[0].state != 0 {
            return Err(Error::Unfit("cuBLASLt has no algorithm for it".into()));
        }
        let [best] = best;
        Ok(Plan { desc: Pointer(desc), layouts, algorithm: best.algorithm, workspace: best.workspace })
    }
}

//! Matrix products by cuBLASLt: one plan for each shape, with the algorithm that was the fastest when it was measured
//! (`algorithms`), or the one that the library's heuristic puts first.
//!
//! What is added (a residual, the gradient so far) is the product's own third operand, so it costs no pass of its own.

use super::algorithms::{Algorithm, Choices};
use super::calls::{Address, CublasLtCalls, Handle, Status};
use super::card::driver;
use super::{Card, CardError, DType, Library};
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;

/// Memory that algorithms may use, as NVIDIA advises for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

// From cublasLt.h and library_types.h.
const COMPUTE_32F: i32 = 68;
const COMPUTE_TF32: i32 = 77;
const R_32F: i32 = 0;
const R_16BF: i32 = 14;
const R_8F_E4M3: i32 = 28;
const DESC_TRANSA: i32 = 3;
const DESC_TRANSB: i32 = 4;
const DESC_A_SCALE_POINTER: i32 = 17;
const DESC_B_SCALE_POINTER: i32 = 18;
const DESC_FAST_ACCUM: i32 = 25;
const DESC_A_SCALE_MODE: i32 = 31;
const DESC_B_SCALE_MODE: i32 = 32;
/// cublasLtMatmulMatrixScale_t: a factor for each row of the first operand and each column of the second, f32.
const SCALE_OUTER_VEC_32F: i32 = 3;
const PREFERENCE_WORKSPACE: i32 = 1;
const PREFERENCE_REDUCTION: i32 = 3;
const CONFIG_REDUCTION: i32 = 3;
/// cublasLtReductionScheme_t: none, or parts of a sum kept in the workspace in f32 and added in a step of their own, in one
/// order. What the other schemes do is rounded in between, or depends on which part is ready first.
const REDUCTIONS: u32 = 2;
const OP_N: i32 = 0;
const OP_T: i32 = 1;

/// Algorithms that are measured for a shape, at most, and how often each is run for it.
const CANDIDATES: usize = 8;
const RUNS: usize = 3;

/// What the values of a matrix are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// 32-bit floats.
    F32,
    /// The upper halves of 32-bit floats.
    Bf16,
    /// 8 bits (`e4m3`): operands only, and only where a card has products of them.
    E4m3,
}

impl From<DType> for Element {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Element::F32,
            DType::Bf16 => Element::Bf16,
        }
    }
}

/// A matrix in row-major order, or its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mat {
    /// Of its first value.
    pub address: u64,
    /// What its values are stored as.
    pub element: Element,
    /// Values from one stored row to the next.
    pub stride: usize,
    /// Whether the product sees the transpose of what is stored.
    pub transposed: bool,
}

impl Mat {
    /// As it is stored.
    pub fn rows(address: u64, element: impl Into<Element>, stride: usize) -> Self {
        Self { address, element: element.into(), stride, transposed: false }
    }

    /// Its transpose.
    pub fn t(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }
}

/// Factors of a product's rows and columns, f32 in the card's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales {
    /// Address of `[m]`, for the rows.
    pub rows: u64,
    /// Address of `[n]`, for the columns.
    pub columns: u64,
}

/// `out [m, n] = scales a [m, k] b [k, n] + add [m, n]`, summed in f32.
///
/// Operands in e4m3 are rows of both (`b` is a transpose), `n` and `k` multiples of 16, as cuBLASLt wants them; they are summed by
/// tensor cores alone ("fast accumulation"), as FBGEMM's kernels of rows with scales do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// `m`, `n`, `k`.
    pub sizes: (usize, usize, usize),
    /// `[m, k]`
    pub a: Mat,
    /// `[k, n]`, of the same type.
    pub b: Mat,
    /// `[m, n]`, of the same type or f32; bf16 or f32 of operands in e4m3.
    pub out: Mat,
    /// Address of what is added, laid out as `out`: `out` itself, another matrix, or none.
    pub add: Option<u64>,
    /// For operands in e4m3, if the card's library multiplies with them ([`E4m3Products`](super::E4m3Products)).
    pub scales: Option<Scales>,
}

impl Product {
    fn key(&self, tf32: bool) -> Key {
        let of = |mat: &Mat| (mat.element, mat.stride, mat.transposed);
        let tf32 = tf32 && self.a.element == Element::F32;
        let operands = [of(&self.a), of(&self.b), of(&self.out)];
        Key { sizes: self.sizes, operands, tf32, scaled: self.scales.is_some() }
    }
}

/// What a plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    sizes: (usize, usize, usize),
    operands: [(Element, usize, bool); 3],
    /// Whether f32 is rounded to TF32 first.
    tf32: bool,
    scaled: bool,
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (m, n, k) = self.sizes;
        write!(f, "{m} {n} {k}")?;
        for (element, stride, transposed) in self.operands {
            write!(f, " {element:?}/{stride}{}", if transposed { "t" } else { "" })?;
        }
        f.write_str(if self.tf32 { " tf32" } else { "" })?;
        f.write_str(if self.scaled { " scaled" } else { "" })
    }
}

struct Plan {
    desc: Handle,
    /// Of the first and second operand as cuBLAS counts, and of the output.
    layouts: [Handle; 3],
    algorithm: Algorithm,
}

/// cublasLtMatmulHeuristicResult_t.
#[repr(C)]
#[derive(Clone, Copy)]
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
    /// Absent where nothing can be kept.
    choices: Option<Choices>,
    /// Whether products of f32 may round to TF32.
    pub tf32: bool,
}

impl Element {
    fn cuda(self) -> i32 {
        match self {
            Element::F32 => R_32F,
            Element::Bf16 => R_16BF,
            Element::E4m3 => R_8F_E4M3,
        }
    }

    /// Bytes of one value.
    fn size(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::Bf16 => 2,
            Element::E4m3 => 1,
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
    pub fn new(library: &Library, choices: Option<Choices>) -> Result<Self, CardError> {
        let calls = CublasLtCalls::of(library)?;
        let (mut handle, mut preference) = (ptr::null_mut(), ptr::null_mut());
        cublas!(calls, create(&mut handle))?;
        cublas!(calls, preference_create(&mut preference))?;
        let bytes = ptr::from_ref(&WORKSPACE).cast();
        cublas!(calls, preference_set(preference, PREFERENCE_WORKSPACE, bytes, size_of::<usize>()))?;
        let bytes = ptr::from_ref(&REDUCTIONS).cast();
        cublas!(calls, preference_set(preference, PREFERENCE_REDUCTION, bytes, size_of::<u32>()))?;
        Ok(Self { calls, handle, preference, workspace: 0, plans: HashMap::new(), choices, tf32: false })
    }

    pub fn needs_workspace(&self) -> bool {
        self.workspace == 0
    }

    pub fn set_workspace(&mut self, address: Address) {
        self.workspace = address;
    }

    /// Whether it is decided how products of this shape are made.
    pub fn is_planned(&self, product: &Product) -> bool {
        self.plans.contains_key(&product.key(self.tf32))
    }

    /// Decides it; measures if it was not measured before. What was asked of the stream is under way.
    pub fn plan(&mut self, card: &Card, product: &Product) -> Result<(), CardError> {
        let key = product.key(self.tf32);
        let (mut plan, candidates) = self.make_plan(product, key.tf32)?;
        let name = key.to_string();
        match self.choices.as_ref().and_then(|choices| choices.get(&name)) {
            Some(kept) if self.takes(&plan, kept) => plan.algorithm = kept,
            kept => {
                if let (Some(choices), Some(_)) = (&mut self.choices, kept) {
                    choices.forget(&name);
                }
                // Nothing can be measured while a graph is captured.
                if self.choices.as_ref().is_some_and(Choices::can_keep)
                    && !card.is_capturing()
                    && let Some(fastest) = self.fastest(card, product, &plan, &candidates)?
                {
                    let choices = self.choices.as_mut().expect("looked at above");
                    plan.algorithm = choices.keep(&name, fastest).unwrap_or(plan.algorithm);
                }
            }
        }
        self.plans.insert(key, plan);
        Ok(())
    }

    /// Whether the library takes an algorithm for a plan, and it adds in one order.
    fn takes(&self, plan: &Plan, algorithm: Algorithm) -> bool {
        let algorithm = ptr::from_ref(&algorithm).cast::<c_void>();
        let mut result = std::mem::MaybeUninit::<Heuristic>::zeroed();
        let [first, second, out] = plan.layouts;
        let to = result.as_mut_ptr().cast();
        let checked =
            cublas!(self.calls, check(self.handle, plan.desc, first, second, out, out, algorithm, to));
        // SAFETY: all zeros are a value of every field.
        let Heuristic { workspace, state, .. } = unsafe { result.assume_init() };
        checked.is_ok() && state == 0 && workspace <= WORKSPACE && self.adds_in_order(algorithm)
    }

    /// As far as the library tells; it was asked for no other.
    fn adds_in_order(&self, algorithm: *const c_void) -> bool {
        let (mut scheme, mut written) = (0u32, 0usize);
        let into = ptr::from_mut(&mut scheme).cast();
        let told =
            cublas!(self.calls, config(algorithm, CONFIG_REDUCTION, into, size_of::<u32>(), &mut written));
        told.is_err() || scheme & !REDUCTIONS == 0
    }

    /// The fastest of some algorithms, on the product's operands, with an output of its own, which is NaN at first. `None`
    /// if there is no choice, or no memory for another output.
    fn fastest(
        &self,
        card: &Card,
        product: &Product,
        plan: &Plan,
        candidates: &[Heuristic],
    ) -> Result<Option<Algorithm>, CardError> {
        if candidates.len() < 2 {
            return Ok(None);
        }
        let (calls, turn) = (&card.0.calls, card.0.stream.turn());
        let stream = *turn;
        let bytes = product.sizes.0 * product.out.stride * product.out.element.size();
        // Not of the arena, which would keep it.
        let mut scratch = 0;
        if driver!(calls, alloc(&mut scratch, bytes)).is_err() {
            return Ok(None);
        }
        let [mut start, mut end]: [Handle; 2] = [ptr::null_mut(); 2];
        let measured = (|| {
            driver!(calls, event_create(&mut start, 0))?;
            driver!(calls, event_create(&mut end, 0))?;
            driver!(calls, set_bytes(scratch, 0xff, bytes, stream))?;
            let elsewhere = Product { out: Mat { address: scratch, ..product.out }, ..*product };
            let mut fastest: Option<(f32, Algorithm)> = None;
            for candidate in candidates {
                let run = || self.run_with(stream, &elsewhere, plan, &candidate.algorithm);
                // The first run loads it; one that the library refuses after all is no candidate.
                if run().is_err() {
                    continue;
                }
                driver!(calls, event_record(start, stream))?;
                (0..RUNS).try_for_each(|_| run())?;
                driver!(calls, event_record(end, stream))?;
                driver!(calls, event_synchronize(end))?;
                let mut time = 0.0;
                driver!(calls, event_elapsed(&mut time, start, end))?;
                if fastest.is_none_or(|(best, _)| time < best) {
                    fastest = Some((time, candidate.algorithm));
                }
            }
            Ok(fastest.map(|(_, algorithm)| algorithm))
        })();
        for event in [start, end].into_iter().filter(|event| !event.is_null()) {
            driver!(calls, event_destroy(event))?;
        }
        driver!(calls, free(scratch))?;
        measured
    }

    /// Asks for a product that is planned. Row-major matrices are the transposes of what cuBLAS sees, so it computes
    /// `out^T = b^T a^T`.
    pub fn run(&self, stream: Handle, call: &Product) -> Result<(), CardError> {
        let plan = self.plans.get(&call.key(self.tf32)).expect("it was planned when it was asked for");
        self.run_with(stream, call, plan, &plan.algorithm)
    }

    fn run_with(
        &self,
        stream: Handle,
        call: &Product,
        plan: &Plan,
        algorithm: &Algorithm,
    ) -> Result<(), CardError> {
        let (alpha, beta) = (1f32, if call.add.is_some() { 1f32 } else { 0f32 });
        let [first, second, out] = plan.layouts;
        let alpha = ptr::from_ref(&alpha).cast::<c_void>();
        let beta = ptr::from_ref(&beta).cast::<c_void>();
        let algorithm = ptr::from_ref(algorithm).cast::<c_void>();
        let Product { a, b, out: o, .. } = call;
        let added = call.add.unwrap_or(o.address);
        if let Some(scales) = call.scales {
            self.set_scales(plan.desc, scales)?;
        }
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

    /// Where the scales are is part of the description, not of the call. cuBLAS's first operand is `b`.
    fn set_scales(&self, desc: Handle, scales: Scales) -> Result<(), CardError> {
        for (attribute, address) in
            [(DESC_A_SCALE_POINTER, scales.columns), (DESC_B_SCALE_POINTER, scales.rows)]
        {
            let address = ptr::from_ref(&address).cast();
            cublas!(self.calls, desc_set(desc, attribute, address, size_of::<u64>()))?;
        }
        Ok(())
    }

    /// A plan with the algorithm that the heuristic puts first, and all that it names.
    fn make_plan(&self, call: &Product, tf32: bool) -> Result<(Plan, Vec<Heuristic>), CardError> {
        let (m, n, k) = call.sizes;
        assert!(k > 0 && !call.out.transposed, "product: {call:?}");
        let mut desc = ptr::null_mut();
        cublas!(self.calls, desc_create(&mut desc, if tf32 { COMPUTE_TF32 } else { COMPUTE_32F }, R_32F))?;
        for (attribute, mat) in [(DESC_TRANSA, call.b), (DESC_TRANSB, call.a)] {
            let operation = if mat.transposed { OP_T } else { OP_N };
            let operation = ptr::from_ref(&operation).cast();
            cublas!(self.calls, desc_set(desc, attribute, operation, size_of::<i32>()))?;
        }
        if call.a.element == Element::E4m3 {
            let fast = ptr::from_ref(&1i8).cast();
            cublas!(self.calls, desc_set(desc, DESC_FAST_ACCUM, fast, size_of::<i8>()))?;
        }
        if let Some(scales) = call.scales {
            for attribute in [DESC_A_SCALE_MODE, DESC_B_SCALE_MODE] {
                let mode = ptr::from_ref(&SCALE_OUTER_VEC_32F).cast();
                cublas!(self.calls, desc_set(desc, attribute, mode, size_of::<i32>()))?;
            }
            self.set_scales(desc, scales)?;
        }
        // Sizes as stored, which are those of the transpose in the order of columns.
        let layout = |mat: &Mat, rows: usize, columns: usize| {
            let (rows, columns) = if mat.transposed { (columns, rows) } else { (rows, columns) };
            let mut layout = ptr::null_mut();
            let stride = mat.stride as i64;
            cublas!(
                self.calls,
                layout_create(&mut layout, mat.element.cuda(), columns as u64, rows as u64, stride)
            )?;
            Ok::<_, CardError>(layout)
        };
        let layouts = [layout(&call.b, k, n)?, layout(&call.a, m, k)?, layout(&call.out, m, n)?];
        let mut found = [const { std::mem::MaybeUninit::<Heuristic>::zeroed() }; CANDIDATES];
        let (mut count, [first, second, out]) = (0, layouts);
        let (results, most) = (found.as_mut_ptr().cast(), CANDIDATES as i32);
        let preference = self.preference;
        cublas!(
            self.calls,
            heuristic(self.handle, desc, first, second, out, out, preference, most, results, &mut count)
        )?;
        // SAFETY: all zeros are a value of every field.
        let found = found.map(|result| unsafe { result.assume_init() });
        let named = &found[..usize::try_from(count).unwrap_or(0).min(CANDIDATES)];
        let mut candidates: Vec<Heuristic> = named.iter().copied().filter(|it| it.state == 0).collect();
        candidates.retain(|it| self.adds_in_order(ptr::from_ref(&it.algorithm).cast()));
        let Some(best) = candidates.first() else {
            let state = found[0].state;
            let text = format!("no algorithm for the product {call:?} (state {state})");
            let call = self.calls.heuristic.name;
            return Err(CardError::Call { call, code: state, text });
        };
        Ok((Plan { desc, layouts, algorithm: best.algorithm }, candidates))
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

//! A card that computes: its context, one stream for computing and one for copies to the host, its memory and kernels.
//!
//! A card is opened once in a process and stays open. What is enqueued runs in order; the host waits only where it reads
//! a number ([`super::Later`]).

use super::api::driver::{DevicePtr, Driver, Handle, MAX_DYNAMIC_SHARED, NO_TIMING, NON_BLOCKING, attribute};
use super::memory::{Block, Memory, Usage};
use super::products::Products;
use super::staging::Staging;
use super::{DType, Error, cached::Cached, compile};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_int, c_uint, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

/// An open card. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Card(&'static Inner);

pub(super) struct Inner {
    driver: Driver,
    pub ordinal: usize,
    pub name: String,
    capability: (c_int, c_int),
    context: Pointer,
    compute: Pointer,
    copies: Pointer,
    memory: Memory,
    modules: [OnceLock<Module>; 2],
    products: OnceLock<Products>,
    staging: Staging,
    cached: Cached,
    poisons: bool,
}

/// What the driver gave: any thread may use it.
#[derive(Clone, Copy)]
pub(super) struct Pointer(pub Handle);
// SAFETY: the driver's functions may be called from all threads.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

struct Module {
    module: Pointer,
    /// By name, with the dynamic shared memory it may have.
    functions: Mutex<HashMap<&'static CStr, (Pointer, usize)>>,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg {
    /// An address (0 for none), or a `size_t`.
    Word(u64),
    /// An `int` or `unsigned`.
    Int(u32),
    /// A `float`.
    Float(f32),
}

/// How many blocks and threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
}

/// Dynamic shared memory that every kernel may have.
const WITHOUT_ASKING: usize = 48 << 10;

/// Threads of a block of every kernel but attention's; `THREADS` in `kernels/common.cuh`.
pub const THREADS: usize = 256;

impl Grid {
    /// One block for each of `count` rows.
    pub fn rows(count: usize) -> Self {
        Self { blocks: [count, 1, 1], threads: THREADS, shared: 0 }
    }

    /// One thread for each of `count` values.
    pub fn values(count: usize) -> Self {
        Self::rows(count.div_ceil(THREADS))
    }
}

impl Card {
    /// Opens card `ordinal`, or returns it if it is open. The error names what is missing and what helps.
    pub fn open(ordinal: usize) -> Result<Self, Error> {
        static OPEN: Mutex<BTreeMap<usize, Card>> = Mutex::new(BTreeMap::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(card) = open.get(&ordinal) {
            return Ok(*card);
        }
        let card = Card(Box::leak(Box::new(Inner::open(ordinal)?)));
        open.insert(ordinal, card);
        Ok(card)
    }

    /// As the driver names it.
    pub fn name(self) -> &'static str {
        &self.0.name
    }

    /// Its number.
    pub fn ordinal(self) -> usize {
        self.0.ordinal
    }

    /// What its memory is used for.
    pub fn usage(self) -> Usage {
        self.0.memory.usage()
    }

    /// The most bf16 operations a second that its maker promises (dense, at boost clock), where known: what MFU is
    /// measured against.
    pub fn promised_flops(self) -> Option<f64> {
        let known =
            [("H100", 989e12), ("H200", 989e12), ("GH200", 989e12), ("A100", 312e12), ("B200", 2250e12)];
        known.iter().find(|(name, _)| self.0.name.contains(name)).map(|(_, flops)| *flops)
    }

    /// Waits until everything enqueued is done.
    pub fn synchronize(self) -> Result<(), Error> {
        self.bind()?;
        // SAFETY: the streams are this card's.
        unsafe {
            self.0.driver.stream_synchronize(self.0.compute.0)?;
            self.0.driver.stream_synchronize(self.0.copies.0)
        }
    }

    pub(crate) fn memory(self) -> &'static Memory {
        &self.0.memory
    }

    pub(super) fn driver(self) -> &'static Driver {
        // The context must be this thread's before any call; failures show in the call itself.
        let _ = self.bind();
        &self.0.driver
    }

    pub(super) fn compute(self) -> Handle {
        self.0.compute.0
    }

    pub(super) fn copies(self) -> Handle {
        self.0.copies.0
    }

    pub(crate) fn staging(self) -> &'static Staging {
        &self.0.staging
    }

    pub(super) fn cached(self) -> &'static Cached {
        &self.0.cached
    }

    pub(super) fn poisons(self) -> bool {
        self.0.poisons
    }

    pub(super) fn products(self) -> &'static Products {
        self.0.products.get_or_init(|| Products::open(self).unwrap_or_else(|error| panic!("card: {error}")))
    }

    /// Makes the card's context that of this thread.
    fn bind(self) -> Result<(), Error> {
        thread_local! {
            static BOUND: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
        }
        if BOUND.get() != Some(self.0.ordinal) {
            // SAFETY: the context is retained for ever.
            unsafe { self.0.driver.set_current(self.0.context.0)? };
            BOUND.set(Some(self.0.ordinal));
        }
        Ok(())
    }

    /// An event for ordering.
    pub(super) fn event(self) -> Result<Handle, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: a pointer to a live variable.
        unsafe { self.driver().event_create(&mut event, NO_TIMING)? };
        Ok(event)
    }

    /// Sets bytes, in the order of computing.
    pub(crate) fn fill(self, at: DevicePtr, value: u8, bytes: usize) -> Result<(), Error> {
        // SAFETY: the range is a block's.
        unsafe { self.driver().fill(at, value, bytes, self.compute()) }
    }

    /// Copies bytes on the card.
    pub(crate) fn copy(self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<(), Error> {
        // SAFETY: both ranges are blocks'.
        unsafe { self.driver().copy_on_card(to, from, bytes, self.compute()) }
    }

    /// Compiles the kernels for a type of activations now, not with the first step.
    pub fn prepare(self, dtype: DType) -> Result<(), Error> {
        self.module(dtype).map(drop)
    }

    fn module(self, dtype: DType) -> Result<&'static Module, Error> {
        let slot = &self.0.modules[dtype as usize];
        if let Some(module) = slot.get() {
            return Ok(module);
        }
        self.bind()?;
        let module = compile::load(&self.0.driver, self.0.capability, dtype)?;
        Ok(slot.get_or_init(|| Module { module: Pointer(module), functions: Mutex::default() }))
    }

    fn function(self, dtype: DType, name: &'static CStr, shared: usize) -> Result<Handle, Error> {
        let module = self.module(dtype)?;
        let mut functions = module.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let (function, allowed) = match functions.get(name) {
            Some((function, allowed)) => (function.0, *allowed),
            None => {
                let mut function = std::ptr::null_mut();
                // SAFETY: the module is loaded, the name ends in a zero.
                unsafe { self.driver().module_function(&mut function, module.module.0, name.as_ptr())? };
                (function, WITHOUT_ASKING)
            }
        };
        if shared > allowed {
            // SAFETY: the function is of a loaded module.
            unsafe { self.driver().function_attribute(function, MAX_DYNAMIC_SHARED, shared as c_int)? };
        }
        functions.insert(name, (Pointer(function), shared.max(allowed)));
        Ok(function)
    }

    /// Enqueues a kernel of the program for a type of activations. The caller answers for the arguments: they are those of
    /// the kernel's source, in order, and every address is a live block's with room for what is written.
    pub(super) fn launch(self, dtype: DType, name: &'static CStr, grid: Grid, args: &[Arg]) {
        let result = self.try_launch(dtype, name, grid, args);
        result.unwrap_or_else(|error| panic!("card: kernel {}: {error}", name.to_string_lossy()));
    }

    fn try_launch(self, dtype: DType, name: &'static CStr, grid: Grid, args: &[Arg]) -> Result<(), Error> {
        let [x, y, z] = grid.blocks;
        if x * y * z == 0 {
            return Ok(());
        }
        if x > i32::MAX as usize || y > 65_535 || z > 65_535 {
            return Err(Error::Unfit(format!("a grid of {x} x {y} x {z} blocks is too large")));
        }
        let function = self.function(dtype, name, grid.shared)?;
        let mut values: Vec<u64> = args
            .iter()
            .map(|arg| match *arg {
                Arg::Word(word) => word,
                Arg::Int(int) => u64::from(int),
                Arg::Float(float) => u64::from(float.to_bits()),
            })
            .collect();
        // A null at the end lets a test see how many there are; the driver reads as many as the kernel has.
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        pointers.push(std::ptr::null_mut());
        // SAFETY: each pointer is to a value at least as large as the kernel's argument (little-endian).
        unsafe {
            self.driver().launch(
                function,
                x as c_uint,
                y as c_uint,
                z as c_uint,
                grid.threads as c_uint,
                1,
                1,
                grid.shared as c_uint,
                self.compute(),
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
    }

    /// A block, or a panic that says what helps.
    pub(crate) fn block(self, bytes: usize) -> Block {
        Block::new(self, bytes).unwrap_or_else(|error| panic!("card: {error}"))
    }
}

impl Inner {
    fn open(ordinal: usize) -> Result<Self, Error> {
        let driver = Driver::open()?;
        let (mut count, mut device, mut bytes, mut text) = (0, 0, 0usize, [0; 256]);
        let (mut compute, mut copies) = Default::default();
        // SAFETY: every pointer is to a live variable of the right type, and the text is as long as is said.
        unsafe {
            driver.init(0)?;
            driver.device_count(&mut count)?;
            if ordinal >= count.max(0) as usize {
                return Err(Error::Unfit(format!(
                    "there is no card {ordinal}: the driver knows {count} (CUDA_VISIBLE_DEVICES may hide some; see `herd doctor`)"
                )));
            }
            driver.device(&mut device, ordinal as c_int)?;
            driver.device_name(text.as_mut_ptr(), 255, device)?;
            driver.total_memory(&mut bytes, device)?;
            let attribute = |which| {
                let mut value = 0;
                driver.device_attribute(&mut value, which, device).map(|()| value)
            };
            let name = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
            let capability =
                (attribute(attribute::CAPABILITY_MAJOR)?, attribute(attribute::CAPABILITY_MINOR)?);
            if capability.0 < 8 {
                let (major, minor) = capability;
                return Err(Error::Unfit(format!(
                    "{name} has compute capability {major}.{minor}; bf16 needs 8.0 (Ampere) or newer: use `device = \"cpu\"`"
                )));
            }
            if attribute(attribute::VIRTUAL_MEMORY)? == 0 {
                return Err(Error::Unfit(format!(
                    "{name}: the driver does not manage virtual memory (vGPU?)"
                )));
            }
            let mut primary: Handle = std::ptr::null_mut();
            driver.retain_primary(&mut primary, device)?;
            driver.set_current(primary)?;
            for stream in [&mut compute, &mut copies] {
                let mut handle: Handle = std::ptr::null_mut();
                driver.stream_create(&mut handle, NON_BLOCKING)?;
                *stream = Pointer(handle);
            }
            let memory = Memory::reserve(&driver, device, bytes)?;
            Ok(Self {
                driver,
                ordinal,
                name,
                capability,
                context: Pointer(primary),
                compute,
                copies,
                memory,
                modules: [const { OnceLock::new() }; 2],
                products: OnceLock::new(),
                staging: Staging::default(),
                cached: Cached::default(),
                poisons: std::env::var_os("HERD_CUDA_POISON").is_some(),
            })
        }
    }
}

impl Default for Pointer {
    fn default() -> Self {
        Self(std::ptr::null_mut())
    }
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cuda:{} ({})", self.0.ordinal, self.0.name)
    }
}

impl PartialEq for Card {
    fn eq(&self, other: &Self) -> bool {
        self.0.ordinal == other.0.ordinal
    }
}

//! A card in use: its context, one stream, its memory and its kernels.
//!
//! All work of a card is in one stream, in the order in which operators asked for it. Nothing here waits for the card
//! but [`CardBuffer::read`](super::CardBuffer::read) and [`Card::synchronize`].

use super::arena::{Arena, CardUsage};
use super::calls::{Address, DriverCalls, Handle, Status};
use super::cudnn::Cudnn;
use super::products::Products;
use super::staging::{Block, Download, Staging};
use super::{CardError, DType, Kind, Library, compile};
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Threads of a block, in nearly every kernel; `THREADS` in `kernels/common.cuh`.
pub(crate) const THREADS: usize = 256;

/// From `cuda.h`: CUfunction_attribute, bytes of shared memory that a launch may ask for.
const MAX_DYNAMIC_SHARED: i32 = 8;
/// What it is at first, on every card.
const COMMON_SHARED: usize = 48 << 10;

/// From `cuda.h`: CUdevice_attribute.
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
/// From `cuda.h`: a stream that does not wait for the legacy default stream.
const NON_BLOCKING: u32 = 1;

/// A card in use. Cheap to clone; the last one gives its memory back.
#[derive(Clone)]
pub struct Card(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub calls: DriverCalls,
    nvrtc: Library,
    context: Handle,
    pub stream: Handle,
    name: String,
    architecture: String,
    pub cache: Option<PathBuf>,
    arena: Mutex<Arena>,
    staging: Mutex<Staging>,
    modules: [OnceLock<Module>; 2],
    compiling: Mutex<()>,
    products: Mutex<Products>,
    pub cudnn: Mutex<Cudnn>,
}

// SAFETY: the driver's handles may be used from any thread that has set the context, which every method does; what
// changes is behind locks.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// Kernels whose activations are of one type.
struct Module {
    module: Handle,
    functions: Mutex<HashMap<&'static str, Function>>,
}

/// A kernel, and the bytes of shared memory that it may be launched with.
#[derive(Clone, Copy)]
struct Function {
    handle: Handle,
    shared: usize,
}

/// The blocks that a kernel runs in.
#[derive(Clone, Copy)]
pub(crate) struct Grid {
    /// Along x and y.
    pub blocks: (usize, usize),
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory of a block besides what the kernel declares.
    pub shared: usize,
}

/// Blocks of [`THREADS`] threads.
impl From<(usize, usize)> for Grid {
    fn from(blocks: (usize, usize)) -> Self {
        Self { blocks, threads: THREADS, shared: 0 }
    }
}

/// An argument of a kernel, as the eight bytes that the driver copies from.
#[derive(Clone, Copy)]
pub(crate) struct Arg(u64);

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Arg(value)
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Arg(value as u64)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Arg(u64::from(value as u32))
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Arg(u64::from(value))
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Self {
        Arg(value.to_bits())
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Arg(u64::from(value.to_bits()))
    }
}

impl From<&super::CardBuffer> for Arg {
    fn from(buffer: &super::CardBuffer) -> Self {
        Arg(buffer.address())
    }
}

thread_local! {
    /// The context that this thread has set.
    static CURRENT: Cell<Handle> = const { Cell::new(ptr::null_mut()) };
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked is consistent between statements, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DriverCalls {
    /// The answer of a call as a result.
    pub(super) fn check(&self, call: &'static str, code: Status) -> Result<(), CardError> {
        if code == 0 {
            return Ok(());
        }
        let text = |explain: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text: *const c_char = ptr::null();
            // SAFETY: the text it points to is static.
            unsafe {
                explain(code, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let parts = [text(self.error_name.call), text(self.error_string.call)];
        Err(CardError::Call { call, code, text: parts.into_iter().flatten().collect::<Vec<_>>().join(": ") })
    }
}

/// Calls a function of the driver and checks its answer.
macro_rules! driver {
    ($calls:expr, $function:ident($($argument:expr),*)) => {{
        let calls = &$calls;
        // SAFETY: the arguments are of the header's types; pointers are to live variables, addresses to live memory.
        let code = unsafe { (calls.$function.call)($($argument),*) };
        calls.check(calls.$function.name, code)
    }};
}
pub(super) use driver;

impl Card {
    /// The card of this index, counted from 0 as the driver counts those that are visible. The libraries are found as
    /// [`Library::open`] does.
    pub fn open(index: usize) -> Result<Self, CardError> {
        Self::open_in(index, &[], compile::cache_folder().as_deref())
    }

    /// The same with libraries from the given folders before all others, and compiled kernels kept in `cache`.
    pub fn open_in(index: usize, folders: &[PathBuf], cache: Option<&Path>) -> Result<Self, CardError> {
        let calls = DriverCalls::of(&Library::open_in(Kind::Driver, folders)?)?;
        let nvrtc = Library::open_in(Kind::Nvrtc, folders)?;
        let cublas = Library::open_in(Kind::CublasLt, folders)?;
        driver!(calls, init(0))?;
        let (mut count, mut device) = (0, 0);
        driver!(calls, device_count(&mut count))?;
        let count = usize::try_from(count).unwrap_or(0);
        if index >= count {
            return Err(CardError::NoCard { index, count });
        }
        driver!(calls, device(&mut device, index as i32))?;
        let (mut major, mut minor) = (0, 0);
        driver!(calls, attribute(&mut major, CAPABILITY_MAJOR, device))?;
        driver!(calls, attribute(&mut minor, CAPABILITY_MINOR, device))?;
        let mut name = [0 as c_char; 256];
        driver!(calls, device_name(name.as_mut_ptr(), 255, device))?;
        // SAFETY: the driver ends the name in a zero, and the last byte is one in any case.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let (mut context, mut stream): (Handle, Handle) = (ptr::null_mut(), ptr::null_mut());
        // The primary context is the one that cuBLASLt uses too.
        driver!(calls, retain_context(&mut context, device))?;
        driver!(calls, set_context(context))?;
        CURRENT.set(context);
        driver!(calls, stream_create(&mut stream, NON_BLOCKING))?;
        Ok(Self(Arc::new(Inner {
            nvrtc,
            context,
            stream,
            name,
            architecture: format!("sm_{major}{minor}"),
            cache: cache.map(Path::to_path_buf),
            arena: Mutex::default(),
            staging: Mutex::default(),
            modules: [const { OnceLock::new() }; 2],
            compiling: Mutex::default(),
            products: Mutex::new(Products::new(&cublas)?),
            cudnn: Mutex::new(Cudnn::new(folders)),
            calls,
        })))
    }

    /// Whether this is the same card, opened once.
    pub(super) fn is(&self, other: &Card) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// As the driver names it, such as `NVIDIA H200`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Operations a second at its peak, with activations of the given type, as NVIDIA's data sheets say for dense
    /// matrices; `None` for a card that is not in the list.
    pub fn peak_flops(&self, activations: DType) -> Option<f64> {
        // Name, 10^12 in bf16 and in f32 (not TF32).
        const PEAKS: [(&str, f64, f64); 6] = [
            ("H200", 989.4, 66.9),
            ("H100 80GB HBM3", 989.4, 66.9),
            ("A100", 312.0, 19.5),
            ("L40S", 362.1, 91.6),
            ("L4", 121.0, 30.3),
            ("GeForce RTX 4090", 165.2, 82.6),
        ];
        let (_, bf16, f32) = PEAKS.iter().find(|(name, ..)| self.0.name.contains(name))?;
        Some(1e12 * if activations == DType::Bf16 { bf16 } else { f32 })
    }

    /// Its architecture as NVRTC names it, such as `sm_90`.
    pub fn architecture(&self) -> &str {
        &self.0.architecture
    }

    /// What its memory is used for.
    pub fn usage(&self) -> CardUsage {
        lock(&self.0.arena).usage
    }

    /// Waits until everything asked for is done. An error may belong to anything asked for before.
    pub fn synchronize(&self) -> Result<(), CardError> {
        self.enter()?;
        driver!(self.0.calls, stream_synchronize(self.0.stream))
    }

    /// Makes its context that of this thread.
    pub(super) fn enter(&self) -> Result<(), CardError> {
        if CURRENT.get() != self.0.context {
            driver!(self.0.calls, set_context(self.0.context))?;
            CURRENT.set(self.0.context);
        }
        Ok(())
    }

    /// Memory for `bytes`.
    pub(super) fn take(&self, bytes: usize) -> Result<Address, CardError> {
        let mut arena = lock(&self.0.arena);
        if let Some(address) = arena.take(bytes) {
            return Ok(address);
        }
        self.enter()?;
        let (mut chunk, size) = (0, Arena::chunk_for(bytes));
        driver!(self.0.calls, alloc(&mut chunk, size))?;
        arena.add(chunk, size);
        Ok(arena.take(bytes).expect("the new chunk is large enough"))
    }

    pub(super) fn give(&self, address: Address, bytes: usize) {
        lock(&self.0.arena).give(address, bytes);
    }

    pub(super) fn clear(&self, address: Address, bytes: usize) -> Result<(), CardError> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        driver!(self.0.calls, set_bytes(address, 0, bytes, self.0.stream))
    }

    pub(super) fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), CardError> {
        if bytes == 0 {
            return Ok(());
        }
        self.enter()?;
        driver!(self.0.calls, copy(to, from, bytes, self.0.stream))
    }

    pub(super) fn upload(&self, from: &[u8], to: Address) -> Result<(), CardError> {
        if from.is_empty() {
            return Ok(());
        }
        self.enter()?;
        lock(&self.0.staging).upload(&self.0.calls, self.0.stream, from, to)
    }

    pub(super) fn download(&self, from: Address, into: &mut [u8]) -> Result<(), CardError> {
        self.enter()?;
        if !into.is_empty() {
            let to = into.as_mut_ptr().cast::<c_void>();
            driver!(self.0.calls, download(to, from, into.len(), self.0.stream))?;
        }
        driver!(self.0.calls, stream_synchronize(self.0.stream))
    }

    /// Asks for `bytes` to be brought to the host, which goes on.
    pub(super) fn download_later(&self, from: Address, bytes: usize) -> Result<Download, CardError> {
        self.enter()?;
        let block = lock(&self.0.staging).download(&self.0.calls, self.0.stream, from, bytes)?;
        Ok(Download::new(self, block, bytes))
    }

    /// Waits for an event of the stream.
    pub(super) fn wait_for(&self, event: Handle) -> Result<(), CardError> {
        self.enter()?;
        driver!(self.0.calls, event_synchronize(event))
    }

    /// Takes a block of staging memory back.
    pub(super) fn give_block(&self, block: Block) {
        lock(&self.0.staging).give(block);
    }

    /// Asks for a kernel of the module for these activations to run in the blocks of a grid. Nothing happens if there are
    /// none.
    pub(crate) fn launch(
        &self,
        activations: DType,
        kernel: &'static str,
        grid: impl Into<Grid>,
        arguments: &[Arg],
    ) -> Result<(), CardError> {
        let Grid { blocks: (x, y), threads, shared } = grid.into();
        if x == 0 || y == 0 {
            return Ok(());
        }
        self.enter()?;
        let function = self.function(activations, kernel, shared)?;
        let mut values: Vec<u64> = arguments.iter().map(|argument| argument.0).collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| ptr::from_mut(value).cast()).collect();
        let [x, y, threads, shared] = [x, y, threads, shared].map(|size| size as u32);
        let (stream, pointers) = (self.0.stream, pointers.as_mut_ptr());
        driver!(
            self.0.calls,
            launch(function, x, y, 1, threads, 1, 1, shared, stream, pointers, ptr::null_mut())
        )
    }

    /// A kernel that may be launched with so many bytes of shared memory.
    fn function(&self, activations: DType, kernel: &'static str, shared: usize) -> Result<Handle, CardError> {
        let module = self.module(activations)?;
        let mut functions = lock(&module.functions);
        let mut function = match functions.get(kernel) {
            Some(function) if shared <= function.shared => return Ok(function.handle),
            Some(function) => *function,
            None => {
                let mut handle: Handle = ptr::null_mut();
                let name = CString::new(kernel).expect("names of kernels are ASCII");
                driver!(self.0.calls, module_function(&mut handle, module.module, name.as_ptr()))
                    .map_err(|_| CardError::Kernel(kernel.into()))?;
                Function { handle, shared: COMMON_SHARED }
            }
        };
        if shared > function.shared {
            driver!(self.0.calls, function_set(function.handle, MAX_DYNAMIC_SHARED, shared as i32))?;
            function.shared = shared;
        }
        functions.insert(kernel, function);
        Ok(function.handle)
    }

    /// The kernels, compiled and loaded when first needed.
    fn module(&self, activations: DType) -> Result<&Module, CardError> {
        let place = &self.0.modules[activations as usize];
        let _one_at_a_time = lock(&self.0.compiling);
        if let Some(module) = place.get() {
            return Ok(module);
        }
        let make = |cache| compile::module(&self.0.nvrtc, &self.0.architecture, activations, cache);
        let mut module: Handle = ptr::null_mut();
        let mut load = |code: &[u8]| driver!(self.0.calls, module_load(&mut module, code.as_ptr().cast()));
        let cache = self.0.cache.as_deref();
        let code = make(cache)?;
        match (load(&code.bytes), code.cached) {
            // What is in the cache may be damaged.
            (Err(_), Some(file)) => {
                let _ = std::fs::remove_file(file);
                load(&make(cache)?.bytes)?;
            }
            (result, _) => result?,
        }
        Ok(place.get_or_init(|| Module { module, functions: Mutex::default() }))
    }

    /// Asks for a matrix product.
    pub(crate) fn product(&self, call: &super::products::Product) -> Result<(), CardError> {
        self.enter()?;
        let mut products = lock(&self.0.products);
        if products.needs_workspace() {
            let address = self.take(super::products::WORKSPACE)?;
            products.set_workspace(address);
        }
        products.run(self.0.stream, call)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // At the end of the process the driver may be gone already; then there is nothing left to give back.
        if driver!(self.calls, set_context(self.context)).is_ok() {
            CURRENT.set(self.context);
            let _ = driver!(self.calls, stream_synchronize(self.stream));
            lock(&self.cudnn).close();
            for chunk in lock(&self.arena).chunks() {
                let _ = driver!(self.calls, free(chunk));
            }
            lock(&self.staging).free(&self.calls);
        } else {
            lock(&self.cudnn).forget();
        }
    }
}

impl std::fmt::Debug for Card {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Card({}, {:?})", self.0.architecture, self.usage())
    }
}

//! A card in use: its context, its streams, its memory and its kernels.
//!
//! All work of a card is in one stream, in the order in which operators asked for it; a second one carries what the first
//! need not wait for (`station`). Nothing here waits for the card but [`CardBuffer::read`](super::CardBuffer::read) and
//! [`Card::synchronize`].

use super::algorithms::Choices;
use super::arena::{Arena, CardUsage};
use super::calls::{Address, DriverCalls, Handle, Status};
use super::cudnn::Cudnn;
use super::launch::Kernels;
use super::pass::{Command, Passes};
use super::products::{Product, Products};
use super::staging::{Block, CardDownload, Staging};
use super::station::Stations;
use super::stream::Compute;
use super::{CardError, DType, Kind, Library, compile};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// From `cuda.h`: CUdevice_attribute.
const MULTIPROCESSOR_COUNT: i32 = 16;
const CAPABILITY_MAJOR: i32 = 75;
const CAPABILITY_MINOR: i32 = 76;
/// From `cuda.h`: a stream that does not wait for the legacy default stream.
const NON_BLOCKING: u32 = 1;

/// A card in use. Cheap to clone; the last one gives its memory back.
#[derive(Clone)]
pub struct Card(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub calls: DriverCalls,
    pub nvrtc: Library,
    context: Handle,
    pub stream: Compute,
    /// The stream of copies between host and card that run beside compute (`station`).
    pub copies: Handle,
    name: String,
    pub architecture: String,
    processors: usize,
    pub cache: Option<PathBuf>,
    pub arena: Mutex<Arena>,
    pub staging: Mutex<Staging>,
    /// What is brought to the host later.
    reports: Mutex<Stations>,
    pub kernels: Kernels,
    products: Mutex<Products>,
    /// Whether the stream captures what it is asked for (`graph`).
    pub capturing: AtomicBool,
    pub passes: Mutex<Passes>,
    pub cudnn: Mutex<Cudnn>,
}

// SAFETY: the driver's handles may be used from any thread that has set the context, which every method does; what
// changes is behind locks.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

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
        let driver = Library::open_in(Kind::Driver, folders)?;
        let calls = DriverCalls::of(&driver)?;
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
        let mut processors = 0;
        driver!(calls, attribute(&mut processors, MULTIPROCESSOR_COUNT, device))?;
        let mut name = [0 as c_char; 256];
        driver!(calls, device_name(name.as_mut_ptr(), 255, device))?;
        // SAFETY: the driver ends the name in a zero, and the last byte is one in any case.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let [mut context, mut stream, mut copies]: [Handle; 3] = [ptr::null_mut(); 3];
        // The primary context is the one that cuBLASLt uses too.
        driver!(calls, retain_context(&mut context, device))?;
        driver!(calls, set_context(context))?;
        CURRENT.set(context);
        driver!(calls, stream_create(&mut stream, NON_BLOCKING))?;
        driver!(calls, stream_create(&mut copies, NON_BLOCKING))?;
        let architecture = format!("sm_{major}{minor}");
        let choices = cache.map(|folder| {
            let version = cublas.version().unwrap_or_default();
            let card: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
            Choices::open(folder.join(format!("products-{card}-{architecture}-cublaslt{version}")))
        });
        Ok(Self(Arc::new(Inner {
            nvrtc,
            context,
            stream: Compute::new(stream, major, &calls, &driver),
            copies,
            name,
            architecture,
            processors: usize::try_from(processors).unwrap_or(1).max(1),
            cache: cache.map(Path::to_path_buf),
            arena: Mutex::default(),
            staging: Mutex::default(),
            reports: Mutex::default(),
            kernels: Kernels::default(),
            products: Mutex::new(Products::new(&cublas, choices)?),
            capturing: AtomicBool::new(false),
            passes: Mutex::new(Passes::new()),
            cudnn: Mutex::new(Cudnn::new(folders)),
            calls,
        })))
    }

    /// Whether this is the same card, opened once.
    pub fn is(&self, other: &Card) -> bool {
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

    /// Streaming multiprocessors.
    pub fn processors(&self) -> usize {
        self.0.processors
    }

    /// Bytes that buffers can be had for now: what the driver has free, for all processes, and what this one has taken and
    /// does not use.
    pub fn free_memory(&self) -> Result<usize, CardError> {
        self.enter()?;
        let (mut free, mut all) = (0, 0);
        driver!(self.0.calls, memory_info(&mut free, &mut all))?;
        let usage = self.usage();
        Ok(free + usage.held - usage.live)
    }

    /// What its memory is used for.
    pub fn usage(&self) -> CardUsage {
        lock(&self.0.arena).usage
    }

    /// Waits until everything asked for is done. An error may belong to anything asked for before.
    pub fn synchronize(&self) -> Result<(), CardError> {
        self.not_captured("waiting for the card")?;
        self.settle()?;
        self.enter()?;
        self.wait()
    }

    /// Waits for the stream, to which others may turn meanwhile.
    fn wait(&self) -> Result<(), CardError> {
        let stream = *self.0.stream.turn();
        driver!(self.0.calls, stream_synchronize(stream))
    }

    /// Makes its context that of this thread.
    pub(super) fn enter(&self) -> Result<(), CardError> {
        if CURRENT.get() != self.0.context {
            driver!(self.0.calls, set_context(self.0.context))?;
            CURRENT.set(self.0.context);
        }
        Ok(())
    }

    /// Whether the stream captures what it is asked for.
    pub(super) fn is_capturing(&self) -> bool {
        self.0.capturing.load(Ordering::Relaxed)
    }

    /// An error if the stream captures: `what` cannot be part of a graph.
    pub(super) fn not_captured(&self, what: &'static str) -> Result<(), CardError> {
        match self.is_capturing() {
            true => Err(CardError::NotInGraph(what)),
            false => Ok(()),
        }
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
        self.ask(Command::Clear { address, bytes }, &[])
    }

    pub(super) fn copy(&self, from: Address, to: Address, bytes: usize) -> Result<(), CardError> {
        if bytes == 0 {
            return Ok(());
        }
        self.ask(Command::Copy { from, to, bytes }, &[])
    }

    pub(super) fn upload(&self, from: &[u8], to: Address) -> Result<(), CardError> {
        // The memory it is copied from serves other uploads afterwards.
        self.not_captured("an upload")?;
        self.settle()?;
        if from.is_empty() {
            return Ok(());
        }
        self.enter()?;
        lock(&self.0.staging).upload(&self.0.calls, *self.0.stream.turn(), from, to)
    }

    pub(super) fn download(&self, from: Address, into: &mut [u8]) -> Result<(), CardError> {
        self.not_captured("a download")?;
        self.settle()?;
        self.enter()?;
        if !into.is_empty() {
            let to = into.as_mut_ptr().cast::<c_void>();
            driver!(self.0.calls, download(to, from, into.len(), *self.0.stream.turn()))?;
        }
        self.wait()
    }

    /// Asks for `bytes` to be brought to the host, which goes on.
    pub(super) fn download_later(&self, from: Address, bytes: usize) -> Result<CardDownload, CardError> {
        self.not_captured("a download")?;
        self.settle()?;
        self.enter()?;
        let mut stations = lock(&self.0.reports);
        stations.grow(self, bytes.next_power_of_two())?;
        let block = stations.download(self, from, bytes)?;
        Ok(CardDownload::new(self, block, bytes))
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

    /// Lets products of f32 round their operands to TF32, as tensor cores take them; they do not at first. Not while a pass is
    /// open.
    pub fn set_tf32(&self, on: bool) {
        let mut products = lock(&self.0.products);
        if products.tf32 != on {
            products.tf32 = on;
            drop(products);
            self.forget_lists();
        }
    }

    /// Asks for a matrix product. Addresses and sizes are the caller's promise, as for [`Card::launch`].
    pub fn product(&self, product: &Product) -> Result<(), CardError> {
        let (m, n, _) = product.sizes;
        if m == 0 || n == 0 {
            return Ok(());
        }
        self.enter()?;
        if !lock(&self.0.products).is_planned(product) {
            // Memory that is free may be used by what a pass has collected.
            self.settle()?;
            self.plan(product)?;
        }
        self.ask(Command::Product(*product), &[])
    }

    /// Decides how a product of this shape is made.
    fn plan(&self, product: &Product) -> Result<(), CardError> {
        let mut products = lock(&self.0.products);
        if products.needs_workspace() {
            let address = self.take(super::products::WORKSPACE)?;
            products.set_workspace(address);
        }
        products.plan(self, product)
    }

    /// Asks the stream for a product that is planned.
    pub(super) fn issue_product(&self, product: &Product) -> Result<(), CardError> {
        lock(&self.0.products).run(*self.0.stream.turn(), product)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // At the end of the process the driver may be gone already; then there is nothing left to give back.
        if driver!(self.calls, set_context(self.context)).is_ok() {
            CURRENT.set(self.context);
            let _ = driver!(self.calls, stream_synchronize(*self.stream.turn()));
            let _ = driver!(self.calls, stream_synchronize(self.copies));
            let mut passes = lock(&self.passes);
            for graph in passes.executables() {
                let _ = driver!(self.calls, graph_exec_destroy(graph));
            }
            for event in passes.feed.events().chain(lock(&self.reports).events()) {
                let _ = driver!(self.calls, event_destroy(event));
            }
            lock(&self.cudnn).close();
            for chunk in lock(&self.arena).chunks() {
                let _ = driver!(self.calls, free(chunk));
            }
            lock(&self.staging).free(&self.calls);
            let _ = driver!(self.calls, stream_destroy(self.copies));
            let _ = driver!(self.calls, stream_destroy(*self.stream.turn()));
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

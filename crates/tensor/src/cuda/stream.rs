//! The stream of compute, and which kernels begin before those in front of them have ended.
//!
//! A step of decoding is a chain of small kernels, each of which reads what the one before it wrote. On cards from sm_90 on
//! ("programmatic dependent launch") the next kernel's blocks may come into the card as soon as all blocks of the one before
//! have allowed it (`launch_dependents` in `kernels/common.cuh`), fetch weights, and wait (`wait_for_previous`) until that
//! one has ended and all that it wrote is there to be read. So a chain has no gaps between its kernels.
//!
//! Rules. A kernel is launched so only if it is one of [`DEPENDENT`], and only behind a kernel of ours: whatever else the
//! stream is asked for takes a [`Turn`], which ends the chain, so the next kernel is launched plainly and begins when
//! everything before it has ended. Every thread of a kernel of the list waits, and before it does so, it reads nothing but
//! what was there before the chain began (weights, page tables), and writes nothing. Then kernels further ahead need no
//! thought: a kernel that has ended has waited for the one before it, which has waited, and so on to the first of the chain.

use super::calls::{DriverCalls, Function, Handle, Status};
use super::card::{driver, lock};
use super::{Card, CardError, Kind, Library};
use std::ffi::{c_int, c_uint, c_void};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Kernels all of whose threads wait for the kernel before.
pub const DEPENDENT: [&str; 11] = [
    "few_add",
    "few_add_e4m3",
    "few_gated",
    "few_gated_e4m3",
    "few_qkv",
    "few_store",
    "norm_rows",
    "paged_attention",
    "paged_decode_64",
    "paged_decode_128",
    "shortlist",
];

/// The capability of cards and the version of drivers from which on they are launched so. Drivers before CUDA 12.3 have no
/// such edges in graphs.
const LEAST_CAPABILITY: i32 = 9;
const LEAST_DRIVER: i32 = 12_030;

/// From `cuda.h`: CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
const PROGRAMMATIC: c_uint = 6;

/// CUlaunchAttribute: the value is a union of 64 bytes.
#[repr(C)]
struct Attribute {
    id: c_uint,
    pad: c_uint,
    allowed: c_int,
    rest: [u32; 15],
}

/// CUlaunchConfig.
#[repr(C)]
struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: Handle,
    attributes: *mut Attribute,
    count: c_uint,
}

const _: () = assert!(size_of::<Attribute>() == 72 && size_of::<Config>() == 56);

type LaunchEx = unsafe extern "C" fn(*const Config, Handle, *mut *mut c_void, *mut *mut c_void) -> Status;

/// The stream of compute.
pub(super) struct Compute {
    handle: Handle,
    /// Whether what it was asked for last is a kernel of ours.
    behind_kernel: Mutex<bool>,
    /// `cuLaunchKernelEx` (CUDA 11.8), where card and driver overlap kernels.
    launch_ex: Option<Function<LaunchEx>>,
    overlap: AtomicBool,
}

/// Leave to ask the stream for something that is not a kernel of ours; nobody else asks it for anything meanwhile.
pub(super) struct Turn<'a> {
    handle: Handle,
    _alone: MutexGuard<'a, bool>,
}

impl Deref for Turn<'_> {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Compute {
    /// A stream of a card with this major capability. `HERD_CUDA_PDL=0` keeps kernels from overlapping.
    pub fn new(handle: Handle, capability: i32, calls: &DriverCalls, driver: &Library) -> Self {
        let mut version = 0;
        let is_new = driver!(calls, driver_version(&mut version)).is_ok() && version >= LEAST_DRIVER;
        let off = std::env::var_os("HERD_CUDA_PDL").is_some_and(|value| value == "0");
        let launch_ex = (is_new && capability >= LEAST_CAPABILITY)
            // SAFETY: the signature is that of cuda.h.
            .then(|| unsafe { Function::find(Kind::Driver, driver, c"cuLaunchKernelEx") }.ok())
            .flatten();
        let overlap = AtomicBool::new(launch_ex.is_some() && !off);
        Self { handle, behind_kernel: Mutex::new(false), launch_ex, overlap }
    }

    /// For everything but kernels of ours.
    pub fn turn(&self) -> Turn<'_> {
        let mut behind_kernel = lock(&self.behind_kernel);
        *behind_kernel = false;
        Turn { handle: self.handle, _alone: behind_kernel }
    }

    /// Asks for a kernel: blocks along x and y, threads of a block, bytes of its shared memory; whether it is a dependent one.
    pub fn launch(
        &self,
        calls: &DriverCalls,
        function: Handle,
        [x, y, threads, shared]: [u32; 4],
        arguments: *mut *mut c_void,
        dependent: bool,
    ) -> Result<(), CardError> {
        let (stream, none) = (self.handle, ptr::null_mut());
        let mut behind_kernel = lock(&self.behind_kernel);
        let early = dependent && *behind_kernel && self.overlap.load(Ordering::Relaxed);
        let asked = match &self.launch_ex {
            Some(launch_ex) if early => {
                let mut attribute = Attribute { id: PROGRAMMATIC, pad: 0, allowed: 1, rest: [0; 15] };
                let config = Config {
                    grid: [x, y, 1],
                    block: [threads, 1, 1],
                    shared,
                    stream,
                    attributes: &mut attribute,
                    count: 1,
                };
                // SAFETY: structures of the header's layout that live through the call; arguments as for a plain launch.
                let code = unsafe { (launch_ex.call)(&config, function, arguments, none) };
                calls.check(launch_ex.name, code)
            }
            _ => driver!(calls, launch(function, x, y, 1, threads, 1, 1, shared, stream, arguments, none)),
        };
        *behind_kernel = asked.is_ok();
        asked
    }
}

impl Card {
    /// Lets kernels of [`DEPENDENT`] begin before those in front of them have ended, or not. They do at first, where card and
    /// driver can, unless `HERD_CUDA_PDL` is 0. The bits are the same.
    pub fn set_overlap(&self, on: bool) {
        self.0.stream.overlap.store(on && self.0.stream.launch_ex.is_some(), Ordering::Relaxed);
        // Graphs are as they were captured.
        self.forget_lists();
    }

    /// Whether they do.
    pub fn overlaps(&self) -> bool {
        self.0.stream.overlap.load(Ordering::Relaxed)
    }
}

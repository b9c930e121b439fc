//! The driver (`cuda.h`, CUDA 12.8).

use super::functions;
use crate::cuda::{Error, Kind};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// Memory of a card, by address.
pub type DevicePtr = u64;
/// `CUcontext`, `CUstream`, `CUevent`, `CUmodule`, `CUfunction`: pointers to what only the driver knows.
pub type Handle = *mut c_void;

/// `CUmemAllocationProp`: pinned memory of one card.
#[repr(C)]
#[derive(Default)]
pub struct AllocationProp {
    /// `CU_MEM_ALLOCATION_TYPE_PINNED` is 1.
    pub kind: c_int,
    /// No handle to share: 0.
    pub handle_types: c_int,
    /// Where: a card is 1.
    pub location: Location,
    /// For Windows.
    pub win32: usize,
    /// Flags of compression and the like: none.
    pub flags: [u8; 8],
}

/// `CUmemLocation`.
#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Location {
    /// `CU_MEM_LOCATION_TYPE_DEVICE` is 1.
    pub kind: c_int,
    /// Number of the card.
    pub id: c_int,
}

/// `CUmemAccessDesc`: who may do what.
#[repr(C)]
pub struct Access {
    /// Who.
    pub location: Location,
    /// `CU_MEM_ACCESS_FLAGS_PROT_READWRITE` is 3.
    pub flags: c_int,
}

/// `CUdevice_attribute` values.
pub mod attribute {
    use std::ffi::c_int;
    pub const CAPABILITY_MAJOR: c_int = 75;
    pub const CAPABILITY_MINOR: c_int = 76;
    pub const VIRTUAL_MEMORY: c_int = 102;
}

/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub const MAX_DYNAMIC_SHARED: c_int = 8;
/// `CU_STREAM_NON_BLOCKING`.
pub const NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub const NO_TIMING: c_uint = 2;
/// `CUDA_ERROR_NOT_READY`.
pub const NOT_READY: c_int = 600;

functions! {
    /// The driver's functions.
    Driver of Kind::Driver, explained by explain, {
        init = "cuInit"(flags: c_uint);
        device_count = "cuDeviceGetCount"(count: *mut c_int);
        device = "cuDeviceGet"(device: *mut c_int, ordinal: c_int);
        device_name = "cuDeviceGetName"(name: *mut c_char, len: c_int, device: c_int);
        total_memory = "cuDeviceTotalMem_v2"(bytes: *mut usize, device: c_int);
        device_attribute = "cuDeviceGetAttribute"(value: *mut c_int, attribute: c_int, device: c_int);
        retain_primary = "cuDevicePrimaryCtxRetain"(context: *mut Handle, device: c_int);
        set_current = "cuCtxSetCurrent"(context: Handle);
        stream_create = "cuStreamCreate"(stream: *mut Handle, flags: c_uint);
        stream_synchronize = "cuStreamSynchronize"(stream: Handle);
        stream_wait_event = "cuStreamWaitEvent"(stream: Handle, event: Handle, flags: c_uint);
        event_create = "cuEventCreate"(event: *mut Handle, flags: c_uint);
        event_record = "cuEventRecord"(event: Handle, stream: Handle);
        event_query = "cuEventQuery"(event: Handle);
        event_synchronize = "cuEventSynchronize"(event: Handle);
        host_alloc = "cuMemHostAlloc"(host: *mut *mut c_void, bytes: usize, flags: c_uint);
        address_reserve = "cuMemAddressReserve"(at: *mut DevicePtr, size: usize, alignment: usize,
            wanted: DevicePtr, flags: u64);
        mem_create = "cuMemCreate"(handle: *mut u64, size: usize, prop: *const AllocationProp, flags: u64);
        mem_map = "cuMemMap"(at: DevicePtr, size: usize, offset: usize, handle: u64, flags: u64);
        mem_set_access = "cuMemSetAccess"(at: DevicePtr, size: usize, access: *const Access, count: usize);
        mem_release = "cuMemRelease"(handle: u64);
        mem_granularity = "cuMemGetAllocationGranularity"(size: *mut usize, prop: *const AllocationProp,
            option: c_int);
        copy_to_card = "cuMemcpyHtoDAsync_v2"(to: DevicePtr, from: *const c_void, bytes: usize, stream: Handle);
        copy_to_host = "cuMemcpyDtoHAsync_v2"(to: *mut c_void, from: DevicePtr, bytes: usize, stream: Handle);
        copy_on_card = "cuMemcpyDtoDAsync_v2"(to: DevicePtr, from: DevicePtr, bytes: usize, stream: Handle);
        fill = "cuMemsetD8Async"(at: DevicePtr, value: u8, bytes: usize, stream: Handle);
        module_load = "cuModuleLoadData"(module: *mut Handle, image: *const c_void);
        module_function = "cuModuleGetFunction"(function: *mut Handle, module: Handle, name: *const c_char);
        function_attribute = "cuFuncSetAttribute"(function: Handle, attribute: c_int, value: c_int);
        launch = "cuLaunchKernel"(function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
            block_x: c_uint, block_y: c_uint, block_z: c_uint, shared: c_uint, stream: Handle,
            arguments: *mut *mut c_void, extra: *mut *mut c_void);
        error_name = "cuGetErrorName"(status: c_int, text: *mut *const c_char);
        error_text = "cuGetErrorString"(status: c_int, text: *mut *const c_char);
    }
}

impl Driver {
    fn explain(&self, call: &'static str, status: c_int) -> Error {
        let text = |get: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text: *const c_char = std::ptr::null();
            // SAFETY: the driver sets the pointer to a static text, or leaves it null.
            unsafe {
                get(status, &mut text);
                (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
            }
        };
        let name = text(self.error_name).unwrap_or_else(|| "an unknown error".into());
        let words = text(self.error_text).map(|t| format!(", {t}")).unwrap_or_default();
        let remedy = match status {
            2 => {
                "the card's memory is full: smaller `micro_batch_tokens`, `recompute = true`, or another card"
            }
            100 => "no card is visible: see `herd doctor`, nvidia-smi and CUDA_VISIBLE_DEVICES",
            218 | 222 => {
                "the driver is older than NVRTC: install a newer driver or an older nvidia-cuda-nvrtc"
            }
            700 | 716 | 719 => "a kernel went wrong, which is a bug of Herd; please report it",
            803 => "driver and libraries do not fit together: restart after an update of the driver",
            _ => "see `herd doctor`",
        };
        Error::Call { call, code: format!("{name} ({status}){words}"), remedy: remedy.into() }
    }

    /// Whether everything before an event is done.
    ///
    /// # Safety
    /// `event` is one of this driver's.
    pub unsafe fn is_done(&self, event: Handle) -> Result<bool, Error> {
        // SAFETY: the caller's promise.
        match unsafe { (self.event_query)(event) } {
            0 => Ok(true),
            NOT_READY => Ok(false),
            status => Err(self.explain("cuEventQuery", status)),
        }
    }
}

//! The functions that are called, with the signatures of NVIDIA's headers (cuda.h, nvrtc.h, cublasLt.h, cudnn_graph.h).
//! They are found by name in the opened library; one that is missing is an error, not a panic.

use super::{CardError, Kind, Library};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// A CUresult, nvrtcResult, cublasStatus_t or cudnnStatus_t; 0 is success.
pub(super) type Status = c_int;
/// Something of a library that only the library looks into.
pub(super) type Handle = *mut c_void;
/// An address in a card's memory.
pub(super) type Address = u64;

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident in $kind:expr; $($field:ident = $symbol:literal ( $($argument:ty),* );)*) => {
        $(#[$doc])*
        pub(super) struct $name {
            $(pub $field: Function<unsafe extern "C" fn($($argument),*) -> Status>,)*
        }

        impl $name {
            /// Finds every function.
            pub fn of(library: &Library) -> Result<Self, CardError> {
                // SAFETY: the signatures are those of the headers.
                unsafe { Ok(Self { $($field: Function::find($kind, library, $symbol)?,)* }) }
            }
        }
    };
}

/// A function and its name, for errors.
pub(super) struct Function<F> {
    pub call: F,
    pub name: &'static str,
}

impl<F: Copy> Function<F> {
    /// # Safety
    /// `F` is the type of the function of that name.
    pub(super) unsafe fn find(kind: Kind, library: &Library, name: &'static CStr) -> Result<Self, CardError> {
        assert_eq!(size_of::<F>(), size_of::<Handle>(), "a function's address");
        let text = name.to_str().expect("names of functions are ASCII");
        let address = library
            .symbol(name)
            .ok_or_else(|| CardError::Function { library: kind.name(), function: text.into() })?;
        // SAFETY: a pointer to a function is as large as an address; the caller answers for the signature.
        Ok(Self { call: unsafe { std::mem::transmute_copy(&address) }, name: text })
    }
}

functions! {
    /// The driver.
    DriverCalls in Kind::Driver;
    init = c"cuInit"(c_uint);
    driver_version = c"cuDriverGetVersion"(*mut c_int);
    device_count = c"cuDeviceGetCount"(*mut c_int);
    device = c"cuDeviceGet"(*mut c_int, c_int);
    device_name = c"cuDeviceGetName"(*mut c_char, c_int, c_int);
    attribute = c"cuDeviceGetAttribute"(*mut c_int, c_int, c_int);
    retain_context = c"cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    set_context = c"cuCtxSetCurrent"(Handle);
    stream_create = c"cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy = c"cuStreamDestroy_v2"(Handle);
    stream_wait = c"cuStreamWaitEvent"(Handle, Handle, c_uint);
    stream_synchronize = c"cuStreamSynchronize"(Handle);
    alloc = c"cuMemAlloc_v2"(*mut Address, usize);
    free = c"cuMemFree_v2"(Address);
    memory_info = c"cuMemGetInfo_v2"(*mut usize, *mut usize);
    host_alloc = c"cuMemHostAlloc"(*mut Handle, usize, c_uint);
    upload = c"cuMemcpyHtoDAsync_v2"(Address, *const c_void, usize, Handle);
    download = c"cuMemcpyDtoHAsync_v2"(*mut c_void, Address, usize, Handle);
    copy = c"cuMemcpyDtoDAsync_v2"(Address, Address, usize, Handle);
    set_bytes = c"cuMemsetD8Async"(Address, u8, usize, Handle);
    event_create = c"cuEventCreate"(*mut Handle, c_uint);
    event_record = c"cuEventRecord"(Handle, Handle);
    event_query = c"cuEventQuery"(Handle);
    event_destroy = c"cuEventDestroy_v2"(Handle);
    host_free = c"cuMemFreeHost"(Handle);
    event_elapsed = c"cuEventElapsedTime"(*mut f32, Handle, Handle);
    event_synchronize = c"cuEventSynchronize"(Handle);
    module_load = c"cuModuleLoadData"(*mut Handle, *const c_void);
    module_function = c"cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    function_set = c"cuFuncSetAttribute"(Handle, c_int, c_int);
    launch = c"cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    capture_begin = c"cuStreamBeginCapture_v2"(Handle, c_uint);
    capture_end = c"cuStreamEndCapture"(Handle, *mut Handle);
    graph_nodes = c"cuGraphGetNodes"(Handle, *mut Handle, *mut usize);
    // Of CUDA 11.4 and later. `cuGraphInstantiate` has other arguments in the headers before and after CUDA 12.
    graph_instantiate = c"cuGraphInstantiateWithFlags"(*mut Handle, Handle, u64);
    graph_launch = c"cuGraphLaunch"(Handle, Handle);
    graph_destroy = c"cuGraphDestroy"(Handle);
    graph_exec_destroy = c"cuGraphExecDestroy"(Handle);
    error_name = c"cuGetErrorName"(Status, *mut *const c_char);
    error_string = c"cuGetErrorString"(Status, *mut *const c_char);
}

functions! {
    /// The compiler of kernels.
    NvrtcCalls in Kind::Nvrtc;
    create = c"nvrtcCreateProgram"(
        *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    compile = c"nvrtcCompileProgram"(Handle, c_int, *const *const c_char);
    log_size = c"nvrtcGetProgramLogSize"(Handle, *mut usize);
    log = c"nvrtcGetProgramLog"(Handle, *mut c_char);
    code_size = c"nvrtcGetCUBINSize"(Handle, *mut usize);
    code = c"nvrtcGetCUBIN"(Handle, *mut c_char);
    destroy = c"nvrtcDestroyProgram"(*mut Handle);
}

functions! {
    /// Matrix products.
    CublasLtCalls in Kind::CublasLt;
    create = c"cublasLtCreate"(*mut Handle);
    desc_create = c"cublasLtMatmulDescCreate"(*mut Handle, c_int, c_int);
    desc_set = c"cublasLtMatmulDescSetAttribute"(Handle, c_int, *const c_void, usize);
    layout_create = c"cublasLtMatrixLayoutCreate"(*mut Handle, c_int, u64, u64, i64);
    preference_create = c"cublasLtMatmulPreferenceCreate"(*mut Handle);
    preference_set = c"cublasLtMatmulPreferenceSetAttribute"(Handle, c_int, *const c_void, usize);
    heuristic = c"cublasLtMatmulAlgoGetHeuristic"(
        Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut c_void, *mut c_int
    );
    config = c"cublasLtMatmulAlgoConfigGetAttribute"(*const c_void, c_int, *mut c_void, usize, *mut usize);
    check = c"cublasLtMatmulAlgoCheck"(
        Handle, Handle, Handle, Handle, Handle, Handle, *const c_void, *mut c_void
    );
    matmul = c"cublasLtMatmul"(
        Handle, Handle, *const c_void, Address, Handle, Address, Handle, *const c_void, Address, Handle, Address,
        Handle, *const c_void, Address, usize, Handle
    );
}

functions! {
    /// Attention: the backend of cuDNN's graphs.
    CudnnCalls in Kind::Cudnn;
    create = c"cudnnCreate"(*mut Handle);
    destroy_handle = c"cudnnDestroy"(Handle);
    set_stream = c"cudnnSetStream"(Handle, Handle);
    make = c"cudnnBackendCreateDescriptor"(c_int, *mut Handle);
    destroy = c"cudnnBackendDestroyDescriptor"(Handle);
    set = c"cudnnBackendSetAttribute"(Handle, c_int, c_int, i64, *const c_void);
    get = c"cudnnBackendGetAttribute"(Handle, c_int, c_int, i64, *mut i64, *mut c_void);
    finalize = c"cudnnBackendFinalize"(Handle);
    execute = c"cudnnBackendExecute"(Handle, Handle, Handle);
}

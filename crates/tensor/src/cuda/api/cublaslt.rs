//! Matrix products (`cublasLt.h`).

use super::functions;
use crate::cuda::api::driver::{DevicePtr, Handle};
use crate::cuda::{Error, Kind};
use std::ffi::{c_int, c_void};

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Heuristic {
    /// `cublasLtMatmulAlgo_t`.
    pub algorithm: [u64; 8],
    /// Bytes of workspace it needs.
    pub workspace: usize,
    /// 0 if it can be used.
    pub state: c_int,
    /// How full the card is with it.
    pub waves: f32,
    /// Reserved.
    pub reserved: [c_int; 4],
}

/// `cudaDataType_t`.
pub const F32: c_int = 0;
/// `cudaDataType_t`.
pub const BF16: c_int = 14;
/// `CUBLAS_COMPUTE_32F`.
pub const COMPUTE_F32: c_int = 68;
/// `CUBLAS_COMPUTE_32F_FAST_TF32`.
pub const COMPUTE_TF32: c_int = 77;
/// `CUBLASLT_MATMUL_DESC_TRANSA`, `_TRANSB`.
pub const TRANSPOSE: [c_int; 2] = [3, 4];
/// `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`.
pub const MAX_WORKSPACE: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_{A,B,C,D}_BYTES`.
pub const MIN_ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];

functions! {
    /// cuBLASLt's functions.
    CublasLt of Kind::CublasLt, explained by explain, {
        create = "cublasLtCreate"(handle: *mut Handle);
        desc_create = "cublasLtMatmulDescCreate"(desc: *mut Handle, compute: c_int, scale: c_int);
        desc_set = "cublasLtMatmulDescSetAttribute"(desc: Handle, attribute: c_int, value: *const c_void,
            size: usize);
        layout_create = "cublasLtMatrixLayoutCreate"(layout: *mut Handle, kind: c_int, rows: u64, columns: u64,
            leading: i64);
        preference_create = "cublasLtMatmulPreferenceCreate"(preference: *mut Handle);
        preference_set = "cublasLtMatmulPreferenceSetAttribute"(preference: Handle, attribute: c_int,
            value: *const c_void, size: usize);
        preference_destroy = "cublasLtMatmulPreferenceDestroy"(preference: Handle);
        heuristic = "cublasLtMatmulAlgoGetHeuristic"(handle: Handle, desc: Handle, a: Handle, b: Handle, c: Handle,
            d: Handle, preference: Handle, wanted: c_int, results: *mut Heuristic, found: *mut c_int);
        matmul = "cublasLtMatmul"(handle: Handle, desc: Handle, alpha: *const c_void, a: DevicePtr,
            a_layout: Handle, b: DevicePtr, b_layout: Handle, beta: *const c_void, c: DevicePtr, c_layout: Handle,
            d: DevicePtr, d_layout: Handle, algorithm: *const u64, workspace: DevicePtr, workspace_bytes: usize,
            stream: Handle);
    }
}

impl CublasLt {
    fn explain(&self, call: &'static str, status: c_int) -> Error {
        let (name, remedy) = match status {
            1 => ("CUBLAS_STATUS_NOT_INITIALIZED", "the driver may be too old for this cuBLAS"),
            3 => ("CUBLAS_STATUS_ALLOC_FAILED", "the card's memory is full: smaller `micro_batch_tokens`"),
            7 => ("CUBLAS_STATUS_INVALID_VALUE", "this is a bug of Herd; please report it"),
            8 => ("CUBLAS_STATUS_ARCH_MISMATCH", "the card is too old for bf16"),
            13 => ("CUBLAS_STATUS_EXECUTION_FAILED", "the card failed; see `dmesg` for Xid errors"),
            14 => ("CUBLAS_STATUS_INTERNAL_ERROR", "see `herd doctor` for mixed versions"),
            15 => {
                ("CUBLAS_STATUS_NOT_SUPPORTED", "this cuBLAS has no such product: pip install nvidia-cublas")
            }
            _ => ("a cuBLAS error", "see `herd doctor`"),
        };
        Error::Call { call, code: format!("{name} ({status})"), remedy: remedy.into() }
    }
}

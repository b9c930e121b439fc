//! The run-time compiler (`nvrtc.h`).

use super::functions;
use crate::cuda::{Error, Kind};
use std::ffi::{c_char, c_int, c_void};

/// `nvrtcProgram`.
pub type Program = *mut c_void;

functions! {
    /// The compiler's functions.
    Nvrtc of Kind::Nvrtc, explained by explain, {
        version = "nvrtcVersion"(major: *mut c_int, minor: *mut c_int);
        create = "nvrtcCreateProgram"(program: *mut Program, source: *const c_char, name: *const c_char,
            headers: c_int, sources: *const *const c_char, names: *const *const c_char);
        compile = "nvrtcCompileProgram"(program: Program, count: c_int, options: *const *const c_char);
        log_size = "nvrtcGetProgramLogSize"(program: Program, size: *mut usize);
        log = "nvrtcGetProgramLog"(program: Program, log: *mut c_char);
        code_size = "nvrtcGetCUBINSize"(program: Program, size: *mut usize);
        code = "nvrtcGetCUBIN"(program: Program, code: *mut c_char);
        destroy = "nvrtcDestroyProgram"(program: *mut Program);
    }
}

impl Nvrtc {
    fn explain(&self, call: &'static str, status: c_int) -> Error {
        let name = match status {
            1 => "NVRTC_ERROR_OUT_OF_MEMORY",
            5 => "NVRTC_ERROR_INVALID_OPTION",
            6 => "NVRTC_ERROR_COMPILATION",
            7 => "NVRTC_ERROR_BUILTIN_OPERATION_FAILURE",
            _ => "an NVRTC error",
        };
        let remedy = match status {
            5 => "this NVRTC does not know the card: pip install --upgrade nvidia-cuda-nvrtc".into(),
            7 => "libnvrtc-builtins of the same version must lie beside libnvrtc: reinstall it".into(),
            _ => "this is a bug of Herd; please report it".to_owned(),
        };
        Error::Call { call, code: format!("{name} ({status})"), remedy }
    }
}

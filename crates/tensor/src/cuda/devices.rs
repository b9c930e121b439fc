//! The driver and the cards it knows: for `herd doctor`, which touches no card.

use super::{Kind, Library, Missing};
use std::ffi::{CStr, c_char, c_int};

/// What the driver says of one card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CardInfo {
    /// As the driver names it, such as `NVIDIA H200`.
    pub name: String,
    /// Compute capability: (9, 0) on Hopper.
    pub capability: (u32, u32),
    /// Bytes of its memory.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub processors: u32,
}

/// The driver's library, opened and started.
#[derive(Debug)]
pub struct Driver {
    library: Library,
}

type Status = c_int;

/// From `cuda.h`: CUdevice_attribute.
const MULTIPROCESSOR_COUNT: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

impl Driver {
    /// Opens the driver's library; no card is touched.
    pub fn open() -> Result<Self, Missing> {
        Ok(Self { library: Library::open(Kind::Driver)? })
    }

    /// The library itself.
    pub fn library(&self) -> &Library {
        &self.library
    }

    /// The cards of this machine. The error is what the driver says, such as `no CUDA-capable device is detected`.
    pub fn cards(&self) -> Result<Vec<CardInfo>, String> {
        // SAFETY: the signatures of these functions are those of cuda.h; every pointer given is to a live variable of
        // the right type, and the name is as long as is said.
        unsafe {
            let init: extern "C" fn(u32) -> Status = self.function(c"cuInit")?;
            let count: extern "C" fn(*mut c_int) -> Status = self.function(c"cuDeviceGetCount")?;
            let get: extern "C" fn(*mut c_int, c_int) -> Status = self.function(c"cuDeviceGet")?;
            let name: extern "C" fn(*mut c_char, c_int, c_int) -> Status =
                self.function(c"cuDeviceGetName")?;
            let memory: extern "C" fn(*mut usize, c_int) -> Status = self.function(c"cuDeviceTotalMem_v2")?;
            let attribute: extern "C" fn(*mut c_int, c_int, c_int) -> Status =
                self.function(c"cuDeviceGetAttribute")?;
            self.check(init(0))?;
            let mut cards: c_int = 0;
            self.check(count(&mut cards))?;
            (0..cards)
                .map(|index| {
                    let (mut device, mut bytes, mut text) = (0, 0usize, [0 as c_char; 256]);
                    self.check(get(&mut device, index))?;
                    self.check(name(text.as_mut_ptr(), 255, device))?;
                    self.check(memory(&mut bytes, device))?;
                    let value = |which| {
                        let mut value = 0;
                        self.check(attribute(&mut value, which, device))?;
                        Ok::<u32, String>(value.unsigned_abs())
                    };
                    Ok(CardInfo {
                        name: CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned(),
                        capability: (value(CAPABILITY_MAJOR)?, value(CAPABILITY_MINOR)?),
                        memory: bytes as u64,
                        processors: value(MULTIPROCESSOR_COUNT)?,
                    })
                })
                .collect()
        }
    }

    /// A function of the library. The caller says its type.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, String> {
        assert_eq!(size_of::<F>(), size_of::<*mut ()>(), "a function's address");
        let symbol = self.library.symbol(name).ok_or_else(|| {
            format!("the driver has no {}: it is too old, install a newer one", name.to_string_lossy())
        })?;
        // SAFETY: `F` is as large as an address; the caller answers for the signature.
        Ok(unsafe { std::mem::transmute_copy(&symbol) })
    }

    fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the signature is that of cuda.h; the text it points to is static.
        unsafe {
            let explain: extern "C" fn(Status, *mut *const c_char) -> Status =
                self.function(c"cuGetErrorString")?;
            explain(status, &mut text);
            Err(match text.is_null() {
                true => format!("error {status}"),
                false => format!("{} (error {status})", CStr::from_ptr(text).to_string_lossy()),
            })
        }
    }
}

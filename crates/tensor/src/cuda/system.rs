//! Opening shared libraries by the system's loader. Cards are only used on Linux; elsewhere nothing is found.

use std::ffi::{CStr, c_void};
use std::path::{Path, PathBuf};

/// Opens a library by path or by name; the error is what the loader says.
#[cfg(target_os = "linux")]
pub fn load(path: &Path) -> Result<*mut c_void, String> {
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).map_err(|e| e.to_string())?;
    // SAFETY: opening a library runs its initialisers; these are NVIDIA's, named by the user or found by their names.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: after a failure this is null or a text that is valid until the next call on this thread.
    let error = unsafe { libc::dlerror() };
    // SAFETY: as above.
    let text = (!error.is_null()).then(|| unsafe { CStr::from_ptr(error) }.to_string_lossy().into_owned());
    Err(text.unwrap_or_else(|| path.display().to_string()))
}

/// The address of a name in an open library.
///
/// # Safety
/// `handle` comes from [`load`].
#[cfg(target_os = "linux")]
pub unsafe fn symbol(handle: *mut c_void, name: &CStr) -> Option<*mut c_void> {
    // SAFETY: by the caller's promise; the name ends in a zero.
    let address = unsafe { libc::dlsym(handle, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// The file in which an address lies.
#[cfg(target_os = "linux")]
pub fn file_of(address: *mut c_void) -> Option<PathBuf> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: `info` is large enough, and all zero, which is valid, if nothing is written.
    let info = unsafe {
        libc::dladdr(address, info.as_mut_ptr());
        info.assume_init()
    };
    // SAFETY: a name that is not null is a text of the loader, which lives as long as the library.
    let name = (!info.dli_fname.is_null()).then(|| unsafe { CStr::from_ptr(info.dli_fname) })?;
    Some(PathBuf::from(name.to_string_lossy().into_owned()))
}

#[cfg(not(target_os = "linux"))]
pub fn load(path: &Path) -> Result<*mut c_void, String> {
    Err(format!("{}: NVIDIA cards are only used on Linux", path.display()))
}

#[cfg(not(target_os = "linux"))]
pub unsafe fn symbol(_: *mut c_void, _: &CStr) -> Option<*mut c_void> {
    None
}

#[cfg(not(target_os = "linux"))]
pub fn file_of(_: *mut c_void) -> Option<PathBuf> {
    None
}

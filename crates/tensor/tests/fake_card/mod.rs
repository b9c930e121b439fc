//! Builds the card made of the processor (`card.cpp`) and opens it; or the machine's first card, where `HERD_REAL_CARD` is set.
//! Every test binary uses a part of this.
#![allow(dead_code)]

use herd_tensor::cuda::{Card, Kind, Library};
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The folder with the four libraries, built once for all tests of all crates, as long as their sources stay the same.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../tensor/tests/fake_card/build");
        let made = Command::new(build).arg(env!("CARGO_TARGET_TMPDIR")).stderr(Stdio::inherit()).output();
        let made = made.expect("tests/fake_card/build needs bash and g++");
        assert!(made.status.success(), "the fake card builds");
        PathBuf::from(String::from_utf8(made.stdout).unwrap().trim_end())
    })
}

/// Whether tests are to be run on the machine's card.
pub fn is_real() -> bool {
    std::env::var_os("HERD_REAL_CARD").is_some()
}

/// The fake card, with memory and kernels of its own, or the real one.
pub fn open() -> Card {
    if is_real() {
        return Card::open(0).unwrap_or_else(|error| panic!("{error}"));
    }
    Card::open_in(0, &[folder().to_path_buf()], None).unwrap_or_else(|error| panic!("{error}"))
}

/// The same with streams that run as late as they may: bit 0 of `streams` is that of compute, bit 1 that of copies. A real card
/// has its own order.
pub fn open_late(streams: u32) -> Card {
    if std::env::var_os("HERD_REAL_CARD").is_some() {
        return open();
    }
    // SAFETY: it is of that type.
    unsafe {
        let late: unsafe extern "C" fn(u32) = std::mem::transmute(symbol(c"fake_card_late"));
        late(streams);
    }
    open()
}

/// A function of the card made of the processor.
pub fn symbol(name: &CStr) -> *mut c_void {
    let driver = Library::open_in(Kind::Driver, &[folder().to_path_buf()]).unwrap();
    driver.symbol(name).expect("it is of the card made of the processor")
}

/// How often a block of a kernel began before the kernel in front of it had ended, in this process.
pub fn begun_early(kernel: &str) -> u32 {
    let kernel = CString::new(kernel).unwrap();
    // SAFETY: it is of that type.
    unsafe {
        let begun: unsafe extern "C" fn(*const c_char) -> u32 =
            std::mem::transmute(symbol(c"fake_card_begun_early"));
        begun(kernel.as_ptr())
    }
}

/// Makes the fake card that this thread sees another one: its capability (90 is 9.0), the version of its cuBLASLt, and whether that
/// refuses sums in f32 where it scales rows and columns.
pub fn be(capability: i32, cublas: usize, bf16_only: bool) {
    // SAFETY: it is of that type.
    unsafe {
        let be: unsafe extern "C" fn(i32, usize, bool) = std::mem::transmute(symbol(c"fake_card_is"));
        be(capability, cublas, bf16_only);
    }
}

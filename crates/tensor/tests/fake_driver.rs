//! The rules of the card made of the processor. One test alone, since what it forbids is forbidden to the whole process.
//! Needs g++.

#![cfg(target_os = "linux")]

mod fake_card;

use herd_tensor::cuda::{Kind, Library};
use std::ffi::c_void;
use std::ptr;

/// What CUDA's documentation says of calls while a stream captures.
#[test]
fn the_fake_driver_forbids_what_a_real_one_does() {
    let driver = Library::open_in(Kind::Driver, &[fake_card::folder().to_path_buf()]).unwrap();
    macro_rules! call {
        ($name:literal: $($type:ty = $value:expr),*) => {{
            let symbol = driver.symbol($name).expect("it is there");
            // SAFETY: the types are those of cuda.h, and pointers are to live variables.
            unsafe {
                let function: unsafe extern "C" fn($($type),*) -> i32 = std::mem::transmute(symbol);
                function($($value),*)
            }
        }};
    }
    const UNSUPPORTED: i32 = 900;
    const INVALIDATED: i32 = 901;
    const CAPTURED_EVENT: i32 = 907;
    type Handle = *mut c_void;
    let (mut stream, mut event): (Handle, Handle) = (ptr::null_mut(), ptr::null_mut());
    let mut address = 0u64;
    assert_eq!(call!(c"cuStreamCreate": *mut Handle = &mut stream, u32 = 1), 0);
    assert_eq!(call!(c"cuEventCreate": *mut Handle = &mut event, u32 = 2), 0);
    let attempt = |mode: u32, forbidden: &mut dyn FnMut(Handle) -> i32| {
        assert_eq!(call!(c"cuStreamBeginCapture_v2": Handle = stream, u32 = mode), 0);
        let answer = forbidden(stream);
        let mut graph: Handle = ptr::null_mut();
        let end = call!(c"cuStreamEndCapture": Handle = stream, *mut Handle = &mut graph);
        assert_eq!(graph.is_null(), end != 0);
        (answer, end)
    };
    // In the modes of all threads, of this one, and of none.
    let alloc = &mut |_| call!(c"cuMemAlloc_v2": *mut u64 = &mut address, usize = 256);
    let answers = [0, 1, 2].map(|mode| attempt(mode, alloc));
    assert_eq!(answers, [(UNSUPPORTED, INVALIDATED), (UNSUPPORTED, INVALIDATED), (0, 0)]);
    let symbol = driver.symbol(c"cuMemAlloc_v2").expect("it is there") as usize;
    let other_thread = &mut |_| {
        let ask = move || {
            let mut address = 0u64;
            // SAFETY: the type is that of cuda.h.
            unsafe {
                let alloc: unsafe extern "C" fn(*mut u64, usize) -> i32 = std::mem::transmute(symbol);
                alloc(&mut address, 256)
            }
        };
        std::thread::spawn(ask).join().unwrap()
    };
    let answers = [0, 1, 2].map(|mode| attempt(mode, other_thread));
    assert_eq!(answers, [(UNSUPPORTED, INVALIDATED), (0, 0), (0, 0)]);
    let synchronize = &mut |stream| call!(c"cuStreamSynchronize": Handle = stream);
    assert_eq!(attempt(2, synchronize), (UNSUPPORTED, INVALIDATED));
    let query = &mut |stream| {
        assert_eq!(call!(c"cuEventRecord": Handle = event, Handle = stream), 0);
        call!(c"cuEventQuery": Handle = event)
    };
    assert_eq!(attempt(2, query), (CAPTURED_EVENT, 0));
    assert_eq!(call!(c"cuEventDestroy_v2": Handle = event), 0);
    assert_eq!(call!(c"cuStreamDestroy_v2": Handle = stream), 0);
}

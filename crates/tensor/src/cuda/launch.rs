//! Kernels of a card: loaded when first needed, launched with their arguments.

use super::calls::Handle;
use super::card::{driver, lock};
use super::pass::Command;
use super::stream::DEPENDENT;
use super::{Card, CardError, DType, compile};
use std::collections::HashMap;
use std::ffi::CString;
use std::ptr;
use std::sync::{Mutex, OnceLock};

/// Threads of a block, in nearly every kernel; `THREADS` in `kernels/common.cuh`.
pub const THREADS: usize = 256;

/// From `cuda.h`: CUfunction_attribute, bytes of shared memory that a launch may ask for.
const MAX_DYNAMIC_SHARED: i32 = 8;
/// What it is at first, on every card.
const COMMON_SHARED: usize = 48 << 10;

/// The compiled kernels, a module for each type of activations.
#[derive(Default)]
pub(super) struct Kernels {
    modules: [OnceLock<Module>; 2],
    compiling: Mutex<()>,
}

/// Kernels whose activations are of one type.
struct Module {
    module: Handle,
    functions: Mutex<HashMap<&'static str, Function>>,
}

/// A kernel, and the bytes of shared memory that it may be launched with.
#[derive(Clone, Copy)]
struct Function {
    handle: Handle,
    shared: usize,
}

/// The blocks that a kernel runs in.
#[derive(Clone, Copy)]
pub struct Grid {
    /// Along x and y.
    pub blocks: (usize, usize),
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory of a block besides what the kernel declares.
    pub shared: usize,
}

/// Blocks of [`THREADS`] threads.
impl From<(usize, usize)> for Grid {
    fn from(blocks: (usize, usize)) -> Self {
        Self { blocks, threads: THREADS, shared: 0 }
    }
}

/// An argument of a kernel, as the eight bytes that the driver copies from.
#[derive(Clone, Copy)]
pub struct Arg(u64);

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Arg(value)
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Arg(value as u64)
    }
}

impl From<i32> for Arg {
    fn from(value: i32) -> Self {
        Arg(u64::from(value as u32))
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Arg(u64::from(value))
    }
}

impl From<f64> for Arg {
    fn from(value: f64) -> Self {
        Arg(value.to_bits())
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Arg(u64::from(value.to_bits()))
    }
}

impl From<&super::CardBuffer> for Arg {
    fn from(buffer: &super::CardBuffer) -> Self {
        Arg(buffer.address())
    }
}

impl Card {
    /// Asks for a kernel of the module for these activations to run in the blocks of a grid. Nothing happens if there are
    /// none. The kernels are those of `kernels/`; the caller answers for the arguments being those of the kernel, in number,
    /// order and type: a wrong one gives wrong numbers or a card that refuses further work, and no memory of the host is
    /// touched.
    pub fn launch(
        &self,
        activations: DType,
        kernel: &'static str,
        grid: impl Into<Grid>,
        arguments: &[Arg],
    ) -> Result<(), CardError> {
        let Grid { blocks: (x, y), threads, shared } = grid.into();
        if x == 0 || y == 0 {
            return Ok(());
        }
        self.enter()?;
        let function = self.function(activations, kernel, shared)?;
        let words: Vec<u64> = arguments.iter().map(|argument| argument.0).collect();
        let grid = [x, y, threads, shared].map(|size| size as u32);
        let dependent = DEPENDENT.contains(&kernel);
        self.ask(Command::Kernel { function, grid, arguments: (0, words.len()), dependent }, &words)
    }

    /// A kernel that may be launched with so many bytes of shared memory.
    fn function(&self, activations: DType, kernel: &'static str, shared: usize) -> Result<Handle, CardError> {
        let module = self.module(activations)?;
        let mut functions = lock(&module.functions);
        let mut function = match functions.get(kernel) {
            Some(function) if shared <= function.shared => return Ok(function.handle),
            Some(function) => *function,
            None => {
                let mut handle: Handle = ptr::null_mut();
                let name = CString::new(kernel).expect("names of kernels are ASCII");
                driver!(self.0.calls, module_function(&mut handle, module.module, name.as_ptr()))
                    .map_err(|_| CardError::Kernel(kernel.into()))?;
                Function { handle, shared: COMMON_SHARED }
            }
        };
        if shared > function.shared {
            driver!(self.0.calls, function_set(function.handle, MAX_DYNAMIC_SHARED, shared as i32))?;
            function.shared = shared;
        }
        functions.insert(kernel, function);
        Ok(function.handle)
    }

    /// The kernels, compiled and loaded when first needed.
    fn module(&self, activations: DType) -> Result<&Module, CardError> {
        let place = &self.0.kernels.modules[activations as usize];
        let _one_at_a_time = lock(&self.0.kernels.compiling);
        if let Some(module) = place.get() {
            return Ok(module);
        }
        let make = |cache| compile::module(&self.0.nvrtc, &self.0.architecture, activations, cache);
        let mut module: Handle = ptr::null_mut();
        let mut load = |code: &[u8]| driver!(self.0.calls, module_load(&mut module, code.as_ptr().cast()));
        let cache = self.0.cache.as_deref();
        let code = make(cache)?;
        match (load(&code.bytes), code.cached) {
            // What is in the cache may be damaged.
            (Err(_), Some(file)) => {
                let _ = std::fs::remove_file(file);
                load(&make(cache)?.bytes)?;
            }
            (result, _) => result?,
        }
        Ok(place.get_or_init(|| Module { module, functions: Mutex::default() }))
    }
}

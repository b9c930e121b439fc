//! The kernels' program: compiled by NVRTC for the card that is there, and kept in the user's cache, so that only the
//! first run with a new card, compiler or Herd waits for it.

use super::api::driver::{Driver, Handle};
use super::api::nvrtc::{Nvrtc, Program};
use super::{DType, Error};
use std::ffi::{CString, c_char, c_int};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// The sources, in the order in which they are put together.
const SOURCES: [(&str, &str); 11] = [
    ("common.cuh", include_str!("kernels/common.cuh")),
    ("mma.cuh", include_str!("kernels/mma.cuh")),
    ("elementwise.cu", include_str!("kernels/elementwise.cu")),
    ("embedding.cu", include_str!("kernels/embedding.cu")),
    ("rms_norm.cu", include_str!("kernels/rms_norm.cu")),
    ("rope.cu", include_str!("kernels/rope.cu")),
    ("swiglu.cu", include_str!("kernels/swiglu.cu")),
    ("cross_entropy.cu", include_str!("kernels/cross_entropy.cu")),
    ("adamw.cu", include_str!("kernels/adamw.cu")),
    ("attention.cu", include_str!("kernels/attention.cu")),
    ("attention_mma.cu", include_str!("kernels/attention_mma.cu")),
];

/// One program: all sources, with lines numbered as in their files.
pub fn source() -> String {
    let mut text = String::new();
    for (name, source) in SOURCES {
        text += &format!("#line 1 \"{name}\"\n{source}\n");
    }
    text
}

/// Loads the program for a type of activations into the current context.
pub fn load(driver: &Driver, capability: (c_int, c_int), dtype: DType) -> Result<Handle, Error> {
    let nvrtc = Nvrtc::open()?;
    let (mut major, mut minor) = (0, 0);
    // SAFETY: pointers to live variables.
    unsafe { nvrtc.version(&mut major, &mut minor)? };
    let architecture = format!("--gpu-architecture=sm_{}{}", capability.0, capability.1);
    let real = match dtype {
        DType::F32 => "-DREAL_F32",
        DType::Bf16 => "-DREAL_BF16",
    };
    let options = [architecture.as_str(), "--std=c++17", "-default-device", real];
    let source = source();
    let mut hasher = DefaultHasher::new();
    (&source, options, major, minor).hash(&mut hasher);
    let kept = folder().map(|f| f.join(format!("kernels-{:016x}.cubin", hasher.finish())));
    if let Some(code) = kept.as_ref().and_then(|path| std::fs::read(path).ok())
        && let Ok(module) = module(driver, &code)
    {
        return Ok(module);
    }
    let code = compile(&nvrtc, &source, &options)?;
    if let Some(path) = kept {
        // A cache: without it the next run compiles again.
        let _ = keep(&path, &code);
    }
    module(driver, &code)
}

fn module(driver: &Driver, code: &[u8]) -> Result<Handle, Error> {
    let mut module = std::ptr::null_mut();
    // SAFETY: the code is a whole file (the driver checks it) and lives until the call returns.
    unsafe { driver.module_load(&mut module, code.as_ptr().cast())? };
    Ok(module)
}

fn compile(nvrtc: &Nvrtc, source: &str, options: &[&str]) -> Result<Vec<u8>, Error> {
    let text = CString::new(source).expect("sources hold no zero");
    let options: Vec<CString> = options.iter().map(|o| CString::new(*o).expect("no zero")).collect();
    let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    let none = std::ptr::null();
    let mut program: Program = std::ptr::null_mut();
    let mut size = 0;
    // SAFETY: texts end in zeros; buffers are as large as the library says.
    unsafe {
        nvrtc.create(&mut program, text.as_ptr(), c"herd.cu".as_ptr(), 0, none, none)?;
        if let Err(error) = nvrtc.compile(program, pointers.len() as c_int, pointers.as_ptr()) {
            nvrtc.log_size(program, &mut size)?;
            let mut log = vec![0u8; size.max(1)];
            nvrtc.log(program, log.as_mut_ptr().cast())?;
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
            return Err(Error::Unfit(format!("the kernels do not compile: {error}\n{log}")));
        }
        nvrtc.code_size(program, &mut size)?;
        let mut code = vec![0u8; size];
        nvrtc.code(program, code.as_mut_ptr().cast())?;
        nvrtc.destroy(&mut program)?;
        Ok(code)
    }
}

/// `$XDG_CACHE_HOME/herd/cuda` or `~/.cache/herd/cuda`.
fn folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))?;
    Some(cache.join("herd/cuda"))
}

/// Under another name first, so that nobody reads half a file.
fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(path.parent().expect("it has a folder"))?;
    let scratch = path.with_extension(format!("{}.tmp", std::process::id()));
    std::fs::write(&scratch, code)?;
    std::fs::rename(&scratch, path)
}

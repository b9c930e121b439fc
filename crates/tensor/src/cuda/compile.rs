//! The kernels' sources, compiled by NVRTC for a card's architecture once and kept in the user's cache.

use super::calls::{Handle, NvrtcCalls, Status};
use super::{CardError, DType, Kind, Library};
use std::ffi::{CString, c_char};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

/// All kernels and what they share, in one module.
const SOURCES: [(&str, &str); 17] = [
    ("common.cuh", include_str!("kernels/common.cuh")),
    ("adamw.cu", include_str!("kernels/adamw.cu")),
    ("attention.cu", include_str!("kernels/attention.cu")),
    ("mma.cuh", include_str!("kernels/mma.cuh")),
    ("attention_mma.cu", include_str!("kernels/attention_mma.cu")),
    ("cross_entropy.cu", include_str!("kernels/cross_entropy.cu")),
    ("elementwise.cu", include_str!("kernels/elementwise.cu")),
    ("embedding.cu", include_str!("kernels/embedding.cu")),
    ("paged.cu", include_str!("kernels/paged.cu")),
    ("few_rows.cu", include_str!("kernels/few_rows.cu")),
    ("e4m3.cu", include_str!("kernels/e4m3.cu")),
    ("paged_decode.cu", include_str!("kernels/paged_decode.cu")),
    ("paged_mma.cu", include_str!("kernels/paged_mma.cu")),
    ("rms_norm.cu", include_str!("kernels/rms_norm.cu")),
    ("rope.cu", include_str!("kernels/rope.cu")),
    ("shortlist.cu", include_str!("kernels/shortlist.cu")),
    ("swiglu.cu", include_str!("kernels/swiglu.cu")),
];

/// The source of the module whose activations are of one type.
pub(super) fn source(activations: DType) -> String {
    let act = match activations {
        DType::F32 => "F32",
        DType::Bf16 => "BF16",
    };
    let mut text = format!("#define ACT_{act}\n");
    for (name, source) in SOURCES {
        text += &format!("#line 1 \"{name}\"\n{source}\n");
    }
    text
}

/// Where compiled kernels are kept: `herd/kernels` in the user's cache; `None` where there is no such folder.
pub(super) fn cache_folder() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("herd/kernels"))
}

/// FNV-1a, 64 bits: names a source.
pub(super) fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Machine code of a module, and the file it came from if it was in the cache.
pub(super) struct Code {
    pub bytes: Vec<u8>,
    pub cached: Option<PathBuf>,
}

/// The module for an architecture such as `sm_90`, from the cache or compiled now.
pub(super) fn module(
    nvrtc: &Library,
    architecture: &str,
    activations: DType,
    cache: Option<&Path>,
) -> Result<Code, CardError> {
    let source = source(activations);
    let version = nvrtc.version().unwrap_or_default();
    let file = cache
        .map(|folder| folder.join(format!("{:016x}-{architecture}-nvrtc{version}", fingerprint(&source))));
    if let Some(file) = &file
        && let Ok(bytes) = fs::read(file)
        && !bytes.is_empty()
    {
        return Ok(Code { bytes, cached: Some(file.clone()) });
    }
    let bytes = compile(&NvrtcCalls::of(nvrtc)?, &source, architecture)?;
    if let Some(file) = &file {
        // A cache that cannot be written costs seconds at the next start, nothing else.
        let _ = keep(file, &bytes);
    }
    Ok(Code { bytes, cached: None })
}

/// Complete or absent, also where several processes compile at once.
pub(super) fn keep(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = file.parent().expect("a file in the cache has a folder");
    fs::create_dir_all(folder)?;
    let scratch = file.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&scratch, bytes)?;
    fs::rename(&scratch, file)
}

fn compile(calls: &NvrtcCalls, source: &str, architecture: &str) -> Result<Vec<u8>, CardError> {
    let source = CString::new(source).expect("sources hold no zero");
    let options =
        [format!("--gpu-architecture={architecture}"), "--std=c++17".into(), "-default-device".into()];
    let options = options.map(|option| CString::new(option).expect("options hold no zero"));
    let pointers = options.each_ref().map(|option| option.as_ptr());
    let mut program: Handle = ptr::null_mut();
    // SAFETY: all pointers are to live variables and texts that end in a zero; buffers are as long as NVRTC says.
    unsafe {
        let name = c"herd.cu".as_ptr();
        let status = (calls.create.call)(&mut program, source.as_ptr(), name, 0, ptr::null(), ptr::null());
        check(calls.create.name, status)?;
        let status = (calls.compile.call)(program, pointers.len() as i32, pointers.as_ptr());
        let mut size = 0;
        if status != 0 {
            check(calls.log_size.name, (calls.log_size.call)(program, &mut size))?;
            let mut log = vec![0u8; size.max(1)];
            check(calls.log.name, (calls.log.call)(program, log.as_mut_ptr().cast::<c_char>()))?;
            (calls.destroy.call)(&mut program);
            let log = String::from_utf8_lossy(&log);
            let log = log.trim_end_matches('\0');
            return Err(CardError::Compile(format!("for {architecture} (error {status}): {log}")));
        }
        check(calls.code_size.name, (calls.code_size.call)(program, &mut size))?;
        let mut code = vec![0u8; size];
        check(calls.code.name, (calls.code.call)(program, code.as_mut_ptr().cast::<c_char>()))?;
        (calls.destroy.call)(&mut program);
        Ok(code)
    }
}

fn check(call: &'static str, code: Status) -> Result<(), CardError> {
    match code {
        0 => Ok(()),
        _ => Err(CardError::Call { call, code, text: format!("{} refused", Kind::Nvrtc.name()) }),
    }
}

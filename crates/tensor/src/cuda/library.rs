//! Finding and opening the CUDA libraries.
//!
//! The order: folders named in `HERD_CUDA_LIBS` (with `:` between them), `CUDA_HOME`, the system's own search (which
//! reads `LD_LIBRARY_PATH`), the `nvidia/*/lib` folders of Python environments (the active one, then those of the
//! `python3` on the path), and `/usr/local/cuda`. The driver's library comes with the driver, so for it the system is asked
//! before all folders but those of `HERD_CUDA_LIBS`.

use super::system::{file_of, load, symbol};
use std::ffi::{CStr, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};

/// A library that the GPU code opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `libcuda`: part of the driver.
    Driver,
    /// `libnvrtc`: compiles the kernels.
    Nvrtc,
    /// `libcudart`: the runtime, which other libraries need.
    Runtime,
    /// `libcublasLt`: matrix products.
    CublasLt,
    /// `libcudnn`: attention.
    Cudnn,
}

impl Kind {
    /// All of them, the driver first.
    pub const ALL: [Kind; 5] = [Kind::Driver, Kind::Nvrtc, Kind::Runtime, Kind::CublasLt, Kind::Cudnn];

    /// The name people know it by.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Driver => "driver",
            Kind::Nvrtc => "NVRTC",
            Kind::Runtime => "CUDA runtime",
            Kind::CublasLt => "cuBLASLt",
            Kind::Cudnn => "cuDNN",
        }
    }

    /// File names it is tried under, the best first.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Kind::Driver => &["libcuda.so.1"],
            Kind::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12"],
            Kind::Runtime => &["libcudart.so.13", "libcudart.so.12"],
            Kind::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12"],
            Kind::Cudnn => &["libcudnn.so.9"],
        }
    }

    /// How a user gets it.
    pub fn remedy(self) -> &'static str {
        match self {
            Kind::Driver => "install NVIDIA's driver (in a container: start it with the GPU passed through)",
            Kind::Nvrtc => "pip install nvidia-cuda-nvrtc",
            Kind::Runtime => "pip install nvidia-cuda-runtime",
            Kind::CublasLt => "pip install nvidia-cublas",
            Kind::Cudnn => "pip install nvidia-cudnn-cu13",
        }
    }
}

/// Why a library could not be opened.
#[derive(Debug)]
pub struct Missing {
    /// Which library.
    pub kind: Kind,
    /// What the system said of files that are there but could not be opened; empty if there are none.
    pub unusable: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { kind, unusable } = self;
        write!(f, "{} not found: {}", kind.files().join(" or "), kind.remedy())?;
        if *kind != Kind::Driver {
            write!(f, ", or name its folder in HERD_CUDA_LIBS")?;
        }
        unusable.iter().try_for_each(|e| write!(f, "; unusable: {e}"))
    }
}

impl std::error::Error for Missing {}

/// Folders to look in, before and after the system's own search.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Folders {
    pub(super) named: Vec<PathBuf>,
    pub(super) first: Vec<PathBuf>,
    pub(super) last: Vec<PathBuf>,
}

/// Every folder that is looked in besides the system's own, in order.
pub fn search_folders() -> Vec<PathBuf> {
    let Folders { named, first, last } = Folders::of(&|name| std::env::var_os(name));
    [named, first, last].concat()
}

impl Folders {
    /// The folders for an environment, given as a function from names of variables to values.
    fn of(variable: &dyn Fn(&str) -> Option<std::ffi::OsString>) -> Self {
        let mut folders = Folders::default();
        if let Some(paths) = variable("HERD_CUDA_LIBS") {
            folders.named.extend(std::env::split_paths(&paths).filter(|p| !p.as_os_str().is_empty()));
        }
        for name in ["CUDA_HOME", "CUDA_PATH"] {
            if let Some(home) = variable(name) {
                folders.first.extend(["lib64", "lib"].map(|lib| Path::new(&home).join(lib)));
            }
        }
        let mut prefixes: Vec<PathBuf> =
            ["VIRTUAL_ENV", "CONDA_PREFIX"].iter().filter_map(|v| variable(v)).map(PathBuf::from).collect();
        for bin in variable("PATH").iter().flat_map(std::env::split_paths) {
            if bin.join("python3").exists() {
                prefixes.extend(bin.parent().map(Path::to_path_buf));
            }
        }
        for prefix in prefixes {
            for folder in python_folders(&prefix) {
                if !folders.last.contains(&folder) {
                    folders.last.push(folder);
                }
            }
        }
        folders.last.push("/usr/local/cuda/lib64".into());
        folders
    }
}

/// `PREFIX/lib/python*/{site,dist}-packages/nvidia/*/lib`, the newest Python first.
fn python_folders(prefix: &Path) -> Vec<PathBuf> {
    let mut pythons = entries(&prefix.join("lib"));
    pythons.retain(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("python3")));
    pythons.reverse();
    let packages = pythons.iter().flat_map(|p| ["site-packages", "dist-packages"].map(|k| p.join(k)));
    let parts = packages.flat_map(|p| entries(&p.join("nvidia")));
    parts.map(|part| part.join("lib")).filter(|lib| lib.is_dir()).collect()
}

/// What is in a folder, in order of names; nothing if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// An open library. It stays open until the process ends, as CUDA's own threads may run in it.
#[derive(Debug)]
pub struct Library {
    kind: Kind,
    handle: *mut c_void,
}

// SAFETY: the loader's functions may be called from all threads; the handle is never closed.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens a library of this machine.
    pub fn open(kind: Kind) -> Result<Self, Missing> {
        Self::open_from(kind, &Folders::of(&|name| std::env::var_os(name)))
    }

    fn open_from(kind: Kind, folders: &Folders) -> Result<Self, Missing> {
        let mut unusable = Vec::new();
        let within = |list: &[PathBuf]| -> Vec<PathBuf> {
            let paths = list.iter().flat_map(|folder| kind.files().iter().map(|f| folder.join(f)));
            paths.filter(|path| path.exists()).collect()
        };
        let by_name = kind.files().iter().map(PathBuf::from).collect();
        let mut places = [within(&folders.named), within(&folders.first), by_name, within(&folders.last)];
        if kind == Kind::Driver {
            places.swap(1, 2);
        }
        for path in places.iter().flatten() {
            match load(path) {
                Ok(handle) => return Ok(Self { kind, handle }),
                // A bare name that is not found is no news.
                Err(error) if path.is_absolute() || path.exists() => unusable.push(error),
                Err(_) => {}
            }
        }
        Err(Missing { kind, unusable })
    }

    /// Address of a function, or `None` if this version of the library has none of that name.
    pub fn symbol(&self, name: &CStr) -> Option<*mut c_void> {
        // SAFETY: the handle is open, and stays so.
        unsafe { symbol(self.handle, name) }
    }

    /// The file it was opened from, as far as the system tells.
    pub fn path(&self) -> Option<PathBuf> {
        let symbol = self.symbol(self.version_symbol())?;
        file_of(symbol)
    }

    fn version_symbol(&self) -> &'static CStr {
        match self.kind {
            Kind::Driver => c"cuDriverGetVersion",
            Kind::Nvrtc => c"nvrtcVersion",
            Kind::Runtime => c"cudaRuntimeGetVersion",
            Kind::CublasLt => c"cublasLtGetVersion",
            Kind::Cudnn => c"cudnnGetVersion",
        }
    }

    /// Its version, such as `13.0` or `9.15.1`. The driver's is the newest CUDA it can run.
    pub fn version(&self) -> Option<String> {
        let symbol = self.symbol(self.version_symbol())?;
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: the signatures are those of NVIDIA's headers (cuda.h, nvrtc.h, cuda_runtime_api.h, cublasLt.h,
        // cudnn_graph.h); none needs anything to be set up before.
        unsafe {
            match self.kind {
                Kind::Driver | Kind::Runtime => {
                    let get: extern "C" fn(*mut c_int) -> c_int = std::mem::transmute(symbol);
                    (get(&mut major) == 0).then(|| format!("{}.{}", major / 1000, major % 1000 / 10))
                }
                Kind::Nvrtc => {
                    let get: extern "C" fn(*mut c_int, *mut c_int) -> c_int = std::mem::transmute(symbol);
                    (get(&mut major, &mut minor) == 0).then(|| format!("{major}.{minor}"))
                }
                Kind::CublasLt | Kind::Cudnn => {
                    let get: extern "C" fn() -> usize = std::mem::transmute(symbol);
                    Some(three_parts(get()))
                }
            }
        }
    }
}

/// cuBLAS 13.1.2 says 130102, cuDNN 9.15.1 says 91501.
fn three_parts(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn environment(pairs: &[(&'static str, PathBuf)]) -> Folders {
        let pairs = pairs.to_vec();
        Folders::of(&move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone().into()))
    }

    #[test]
    fn folders_come_in_the_promised_order() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for folder in [
            "venv/lib/python3.12/site-packages/nvidia/cudnn/lib",
            "venv/lib/python3.12/site-packages/nvidia/cublas/lib",
            "venv/lib/python3.12/site-packages/nvidia/no_lib",
            "sys/lib/python3.11/dist-packages/nvidia/cu13/lib",
            "sys/bin",
        ] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::write(root.join("sys/bin/python3"), "").unwrap();
        let found = environment(&[
            ("HERD_CUDA_LIBS", "/mine:/yours".into()),
            ("CUDA_HOME", "/toolkit".into()),
            ("VIRTUAL_ENV", root.join("venv")),
            ("PATH", root.join("sys/bin")),
        ]);
        assert_eq!(found.named, ["/mine", "/yours"].map(PathBuf::from));
        assert_eq!(found.first, ["/toolkit/lib64", "/toolkit/lib"].map(PathBuf::from));
        let packages = root.join("venv/lib/python3.12/site-packages/nvidia");
        assert_eq!(
            found.last,
            [
                packages.join("cublas/lib"),
                packages.join("cudnn/lib"),
                root.join("sys/lib/python3.11/dist-packages/nvidia/cu13/lib"),
                "/usr/local/cuda/lib64".into(),
            ]
        );
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_that_is_no_library_is_told_with_its_path() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("libcudnn.so.9");
        fs::write(&file, "not a library").unwrap();
        let folders = Folders { named: vec![root.path().into()], ..Folders::default() };
        // A machine with cuDNN in the system's folders opens that one instead.
        if let Err(missing) = Library::open_from(Kind::Cudnn, &folders) {
            let text = missing.to_string();
            assert!(text.contains(file.to_str().unwrap()) && text.contains("HERD_CUDA_LIBS"), "{text}");
        }
    }

    #[test]
    fn versions_read_as_their_makers_write_them() {
        assert_eq!((three_parts(91501), three_parts(130102)), ("9.15.1".to_owned(), "13.1.2".to_owned()));
    }
}

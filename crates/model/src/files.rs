//! The tensors of safetensors files, memory-mapped.

use crate::weights::WeightsError;
use half::{bf16, f16};
use herd_run::atomic::{self, FileError};
use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

/// One file or the shards of one model, open. Nothing is read until it is asked for.
pub struct TensorFiles {
    files: Vec<(PathBuf, Mmap)>,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    slot: TensorSlot,
}

/// Where the bytes of a tensor lie in a [`TensorFiles`].
#[derive(Debug, Clone, Copy)]
pub struct TensorSlot {
    file: usize,
    start: usize,
    end: usize,
}

/// A tensor as it lies in its file.
#[derive(Clone, Copy)]
pub struct StoredTensor<'f> {
    /// Its file.
    pub path: &'f Path,
    /// Its number format.
    pub dtype: Dtype,
    /// Its shape, rows first.
    pub shape: &'f [usize],
    /// Its numbers, little-endian, row-major.
    pub bytes: &'f [u8],
    /// Where they lie.
    pub slot: TensorSlot,
}

impl TensorFiles {
    /// Opens the weights of a Hugging Face folder: `model.safetensors`, or the shards that the index names.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        let index = dir.join("model.safetensors.index.json");
        if !index.exists() {
            let single = dir.join("model.safetensors");
            let pickled = dir.join("pytorch_model.bin");
            if !single.exists() && (pickled.exists() || dir.join("pytorch_model.bin.index.json").exists()) {
                let problem = "is a pickle, which is not read; save the model with `safe_serialization=True`";
                return Err(WeightsError::Format { path: pickled, problem: problem.into() });
            }
            return Self::of(vec![single]);
        }
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let map: Index = atomic::read_json(&index)?;
        let names: BTreeSet<&String> = map.weight_map.values().collect();
        let files = Self::of(names.into_iter().map(|name| dir.join(name)).collect())?;
        if let Some((name, file)) = map.weight_map.iter().find(|(name, _)| !files.tensors.contains_key(*name))
        {
            return Err(WeightsError::Missing { path: dir.join(file), name: name.clone() });
        }
        Ok(files)
    }

    /// Opens one safetensors file.
    pub fn open_file(path: &Path) -> Result<Self, WeightsError> {
        Self::of(vec![path.to_path_buf()])
    }

    fn of(paths: Vec<PathBuf>) -> Result<Self, WeightsError> {
        let (mut files, mut tensors) = (Vec::with_capacity(paths.len()), BTreeMap::new());
        for (number, path) in paths.into_iter().enumerate() {
            let map = map(&path)?;
            let parsed = SafeTensors::deserialize(&map)
                .map_err(|e| WeightsError::Format { path: path.clone(), problem: e.to_string() })?;
            for (name, view) in parsed.tensors() {
                let start = view.data().as_ptr().addr() - map.as_ptr().addr();
                let place = Place {
                    dtype: view.dtype(),
                    shape: view.shape().to_vec(),
                    slot: TensorSlot { file: number, start, end: start + view.data().len() },
                };
                tensors.insert(name, place);
            }
            files.push((path, map));
        }
        Ok(Self { files, tensors })
    }

    /// A tensor by name.
    pub fn get(&self, name: &str) -> Option<StoredTensor<'_>> {
        let place = self.tensors.get(name)?;
        let path = &self.files[place.slot.file].0;
        let (slot, bytes) = (place.slot, self.bytes(place.slot));
        Some(StoredTensor { path, dtype: place.dtype, shape: &place.shape, bytes, slot })
    }

    /// The bytes of a tensor of these files.
    pub fn bytes(&self, slot: TensorSlot) -> &[u8] {
        &self.files[slot.file].1[slot.start..slot.end]
    }

    /// The files, opened.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The names of all tensors in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor that a model needs, of the shape it needs.
    ///
    /// # Errors
    /// It is missing, of another shape, or its numbers are of a format that is not read.
    pub fn expect(&self, name: &str, shape: &[usize]) -> Result<StoredTensor<'_>, WeightsError> {
        let Some(tensor) = self.get(name) else {
            let path = self.files.first().map(|(path, _)| path.as_path()).unwrap_or(Path::new(""));
            let path = if self.files.len() == 1 { path } else { path.parent().unwrap_or(path) };
            return Err(WeightsError::Missing { path: path.to_path_buf(), name: name.to_string() });
        };
        if tensor.shape != shape {
            return Err(WeightsError::Shape {
                path: tensor.path.to_path_buf(),
                name: name.to_string(),
                found: tensor.shape.to_vec(),
                expected: shape.to_vec(),
            });
        }
        if !matches!(tensor.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(WeightsError::Dtype {
                path: tensor.path.to_path_buf(),
                name: name.to_string(),
                found: format!("{:?}", tensor.dtype),
            });
        }
        Ok(tensor)
    }
}

impl StoredTensor<'_> {
    /// The error of a number that is none.
    pub fn not_finite(&self, name: &str, index: usize) -> WeightsError {
        WeightsError::NotFinite { path: self.path.to_path_buf(), name: name.to_string(), index }
    }

    /// Copies numbers from number `first` on as f32; as many as `to` is long.
    ///
    /// F32, F16 and BF16 only, see [`TensorFiles::expect`]; others give zeros.
    pub fn copy_to(&self, first: usize, to: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], to: &mut [f32], f: impl Fn([u8; N]) -> f32 + Sync) {
            let work = |(x, b): (&mut f32, &[u8])| {
                let mut word = [0; N];
                word.copy_from_slice(b);
                *x = f(word);
            };
            match to.len() {
                0..65_536 => to.iter_mut().zip(bytes.chunks_exact(N)).for_each(work),
                _ => to.par_iter_mut().zip(bytes.par_chunks_exact(N)).with_min_len(1 << 14).for_each(work),
            }
        }
        let size = if self.dtype == Dtype::F32 { 4 } else { 2 };
        let bytes = self.bytes.get(first * size..).unwrap_or_default();
        match self.dtype {
            Dtype::F32 => each(bytes, to, f32::from_le_bytes),
            Dtype::BF16 => each(bytes, to, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F16 => each(bytes, to, |b| f16::from_le_bytes(b).to_f32()),
            _ => to.fill(0.0),
        }
    }
}

fn map(path: &Path) -> Result<Mmap, WeightsError> {
    let file = File::open(path).map_err(FileError::at("open", path))?;
    // SAFETY: the map is only read; a file that another process shortens meanwhile is the one case that the
    // operating system gives no protection against, as with every memory-mapped checkpoint.
    Ok(unsafe { Mmap::map(&file) }.map_err(FileError::at("map", path))?)
}

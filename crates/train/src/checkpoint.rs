//! Checkpoints: parameters, moments and the run's own state in one folder per step, complete or absent.
//!
//! ```text
//! checkpoints/step-0000001200/{parameters,first_moment,second_moment}.safetensors, state.json, checksums.b3
//! ```
//!
//! `checksums.b3` is what `b3sum --check` reads. Everything is verified on loading; a damaged checkpoint is passed
//! over with a warning for the one before it (SPEC INFRA-6).

use crate::adamw::AdamW;
use crate::moments::Moments;
use bytemuck::Pod;
use half::bf16;
use herd_run::atomic::{self, FileError};
use herd_tensor::Params;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes that are hashed and moved at a time.
const BLOCK: usize = 1 << 20;
// Safetensors is little-endian, and buffers are moved as they lie.
const _: () = assert!(cfg!(target_endian = "little"), "checkpoints need a little-endian machine");
const CHECKSUMS: &str = "checksums.b3";
const STATE: &str = "state.json";
const FILES: [&str; 3] = ["parameters.safetensors", "first_moment.safetensors", "second_moment.safetensors"];

/// Why a checkpoint cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file does not have the content that was written.
    #[error("checkpoint {}: {file} is damaged ({problem})", path.display())]
    Damaged {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The file inside it.
        file: String,
        /// How it differs.
        problem: String,
    },
    /// The checkpoint is sound but belongs to a model of another shape.
    #[error(
        "checkpoint {}: its parameters, or the type of its moments, are not those of this model; use another output \
         folder or the settings it was made with",
        path.display()
    )]
    OtherModel {
        /// The checkpoint's folder.
        path: PathBuf,
    },
}

/// What a checkpoint holds besides parameters and moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Steps of the run that are done.
    pub step: u64,
    /// Steps that the optimizer applied (fewer than `step` if some were skipped).
    pub optimizer_steps: u64,
    /// Whatever the caller needs to continue: loader position, phase, gates.
    pub extra: Value,
}

/// Writes the checkpoint of `step` into `folder` and removes all but the newest `keep` (at least one).
pub fn save(
    folder: &Path,
    keep: usize,
    step: u64,
    params: &Params,
    optimizer: &AdamW,
    extra: Value,
) -> Result<PathBuf, Error> {
    let path = folder.join(format!("step-{step:010}"));
    let state = State { step, optimizer_steps: optimizer.steps(), extra };
    atomic::create_folder(&path, |scratch| {
        let [parameters, first, second] = FILES.map(|name| scratch.join(name));
        let own = write(&parameters, params, params.flat())?;
        let (first, second) = match optimizer.moments() {
            Moments::F32(pair) => {
                (write(&first, params, &pair.first)?, write(&second, params, &pair.second)?)
            }
            Moments::Bf16(pair) => {
                (write(&first, params, &pair.first)?, write(&second, params, &pair.second)?)
            }
        };
        let mut sums = String::new();
        for (name, sum) in FILES.into_iter().zip([own, first, second]) {
            sums += &format!("{sum}  {name}\n");
        }
        atomic::write_json(&scratch.join(STATE), &state)?;
        sums += &format!("{}  {STATE}\n", herd_run::hash::of_file(&scratch.join(STATE))?);
        atomic::write(&scratch.join(CHECKSUMS), sums)
    })?;
    for (_, old) in list(folder)?.into_iter().skip(keep.max(1)) {
        fs::remove_dir_all(&old).map_err(FileError::at("remove", &old))?;
    }
    Ok(path)
}

/// The checkpoints of a folder by step, newest first; empty if the folder does not exist.
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(FileError::at("list", folder))? {
        let path = entry.map_err(FileError::at("list", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(step) = name.strip_prefix("step-").and_then(|digits| digits.parse().ok()) {
            found.push((step, path));
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

/// Loads the newest sound checkpoint of a folder into `params` and `optimizer`. Damaged ones are told to `warn` and
/// passed over; `None` if none is left, in which case `params` must be initialized anew.
pub fn latest(
    folder: &Path,
    params: &mut Params,
    optimizer: &mut AdamW,
    mut warn: impl FnMut(String),
) -> Result<Option<State>, Error> {
    for (_, path) in list(folder)? {
        match load(&path, params, optimizer) {
            Ok(state) => return Ok(Some(state)),
            Err(error @ Error::OtherModel { .. }) => return Err(error),
            Err(error) => warn(format!("{error}; trying the one before it")),
        }
    }
    Ok(None)
}

/// Loads one checkpoint, verifying every byte. After an error `params` and `optimizer` hold nothing of use.
pub fn load(path: &Path, params: &mut Params, optimizer: &mut AdamW) -> Result<State, Error> {
    let damaged =
        |file: &str, problem: String| Error::Damaged { path: path.into(), file: file.into(), problem };
    let sums = atomic::read(&path.join(CHECKSUMS))?;
    let sums = String::from_utf8_lossy(&sums);
    let expected = |file: &str| {
        sums.lines()
            .find_map(|line| line.split_once("  ").filter(|(_, name)| *name == file))
            .map(|(sum, _)| sum)
            .ok_or_else(|| damaged(CHECKSUMS, format!("it does not name {file}")))
    };
    let check = |file: &str, sum: String| match sum == expected(file)? {
        true => Ok(()),
        false => Err(damaged(file, "its checksum differs".into())),
    };
    let state = atomic::read(&path.join(STATE))?;
    check(STATE, herd_run::hash::of_bytes(&state))?;
    let state: State = serde_json::from_slice(&state).map_err(|e| damaged(STATE, e.to_string()))?;

    let [parameters, first, second] = FILES.map(|name| path.join(name));
    let (first, second) = match optimizer.restore(state.optimizer_steps) {
        Moments::F32(pair) => {
            (read(&first, params, &mut pair.first)?, read(&second, params, &mut pair.second)?)
        }
        Moments::Bf16(pair) => {
            (read(&first, params, &mut pair.first)?, read(&second, params, &mut pair.second)?)
        }
    };
    let layout = Layout::of::<f32>(params);
    let own = layout.read(&parameters, params.flat_mut())?;
    let mut other = false;
    for (file, read) in FILES.into_iter().zip([own, first, second]) {
        check(file, read.sum)?;
        other |= !read.same_layout;
    }
    if other {
        return Err(Error::OtherModel { path: path.into() });
    }
    Ok(state)
}

/// A number that lies in a flat buffer and in files.
trait Element: Pod {
    /// Its name in safetensors.
    const DTYPE: &str;
}

impl Element for f32 {
    const DTYPE: &str = "F32";
}

impl Element for bf16 {
    const DTYPE: &str = "BF16";
}

/// Writes a flat buffer with the layout of `params` as a safetensors file and returns its BLAKE3 sum.
fn write<T: Element>(path: &Path, params: &Params, flat: &[T]) -> Result<String, FileError> {
    Layout::of::<T>(params).write(path, flat)
}

/// Reads such a file back. A file of another layout is only hashed.
fn read<T: Element>(path: &Path, params: &Params, flat: &mut [T]) -> Result<ReadBack, FileError> {
    Layout::of::<T>(params).read(path, flat)
}

/// Where each parameter lies in a flat buffer, and the safetensors header that says so.
struct Layout {
    header: Vec<u8>,
    ranges: Vec<Range<usize>>,
}

struct ReadBack {
    sum: String,
    same_layout: bool,
}

impl Layout {
    fn of<T: Element>(params: &Params) -> Self {
        let mut map = Map::new();
        let mut ranges = Vec::new();
        let mut at = 0;
        for id in params.ids() {
            let (spec, range) = (params.spec(id), params.range(id));
            let end = at + size_of::<T>() * range.len();
            let entry = json!({"dtype": T::DTYPE, "shape": spec.shape, "data_offsets": [at, end]});
            map.insert(spec.name.clone(), entry);
            ranges.push(range);
            at = end;
        }
        let mut json = Value::Object(map).to_string().into_bytes();
        // The format pads its header with spaces to a multiple of eight bytes.
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.extend(json);
        Self { header, ranges }
    }

    fn write<T: Element>(&self, path: &Path, flat: &[T]) -> Result<String, FileError> {
        let mut hasher = blake3::Hasher::new();
        atomic::create(path, |out| {
            let mut put = |bytes: &[u8]| {
                hasher.update(bytes);
                out.write_all(bytes).map_err(FileError::at("write", path))
            };
            put(&self.header)?;
            for range in &self.ranges {
                bytemuck::cast_slice(&flat[range.clone()]).chunks(BLOCK).try_for_each(&mut put)?;
            }
            Ok(())
        })
        .map(|()| hasher.finalize().to_hex().to_string())
    }

    fn read<T: Element>(&self, path: &Path, flat: &mut [T]) -> Result<ReadBack, FileError> {
        let mut file = File::open(path).map_err(FileError::at("read", path))?;
        let mut hasher = blake3::Hasher::new();
        let mut same = true;
        let mut take = |bytes: &mut [u8]| -> Result<usize, FileError> {
            let n = read_full(&mut file, bytes).map_err(FileError::at("read", path))?;
            hasher.update(&bytes[..n]);
            Ok(n)
        };
        let mut header = vec![0; self.header.len()];
        let n = take(&mut header)?;
        same &= header[..n] == self.header;
        if same {
            for range in &self.ranges {
                for bytes in bytemuck::cast_slice_mut(&mut flat[range.clone()]).chunks_mut(BLOCK) {
                    same &= take(bytes)? == bytes.len();
                }
            }
        }
        let mut rest = vec![0; BLOCK];
        while take(&mut rest)? > 0 {
            same = false;
        }
        Ok(ReadBack { sum: hasher.finalize().to_hex().to_string(), same_layout: same })
    }
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

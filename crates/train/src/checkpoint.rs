//! Checkpoints: parameters, moments and the run's own state in one folder per step, complete or absent.
//!
//! ```text
//! checkpoints/step-0000001200/{parameters,first_moment,second_moment}.safetensors, state.json, checksums.b3
//! ```
//!
//! `checksums.b3` is what `b3sum --check` reads. Everything is verified on loading; a damaged checkpoint is passed
//! over with a warning for the one before it (SPEC INFRA-6).

use crate::adamw::AdamW;
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
        "checkpoint {}: its parameters are not those of this model; use another output folder or the settings it \
         was made with",
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
    let (first, second) = optimizer.moments();
    let layout = Layout::of(params);
    atomic::create_folder(&path, |scratch| {
        let mut sums = String::new();
        for (name, values) in FILES.into_iter().zip([params.flat(), first, second]) {
            let sum = layout.write(&scratch.join(name), values)?;
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

    let layout = Layout::of(params);
    let (first, second) = optimizer.restore(state.optimizer_steps);
    let mut other = false;
    for (file, values) in FILES.into_iter().zip([params.flat_mut(), first, second]) {
        let read = layout.read(&path.join(file), values)?;
        check(file, read.sum)?;
        other |= !read.same_layout;
    }
    if other {
        return Err(Error::OtherModel { path: path.into() });
    }
    Ok(state)
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
    fn of(params: &Params) -> Self {
        let mut map = Map::new();
        let mut ranges = Vec::new();
        let mut at = 0;
        for id in params.ids() {
            let (spec, range) = (params.spec(id), params.range(id));
            let end = at + 4 * range.len();
            let entry = json!({"dtype": "F32", "shape": spec.shape, "data_offsets": [at, end]});
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

    /// Writes a flat buffer as a safetensors file and returns its BLAKE3 sum.
    fn write(&self, path: &Path, flat: &[f32]) -> Result<String, FileError> {
        let mut hasher = blake3::Hasher::new();
        let mut block = Vec::with_capacity(BLOCK);
        atomic::create(path, |out| {
            let mut put = |bytes: &[u8]| {
                hasher.update(bytes);
                out.write_all(bytes).map_err(FileError::at("write", path))
            };
            put(&self.header)?;
            for values in self.ranges.iter().flat_map(|range| flat[range.clone()].chunks(BLOCK / 4)) {
                block.clear();
                block.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                put(&block)?;
            }
            Ok(())
        })
        .map(|()| hasher.finalize().to_hex().to_string())
    }

    /// Reads such a file back into a flat buffer. A file of another layout is only hashed.
    fn read(&self, path: &Path, flat: &mut [f32]) -> Result<ReadBack, FileError> {
        let mut file = File::open(path).map_err(FileError::at("read", path))?;
        let mut hasher = blake3::Hasher::new();
        let mut block = vec![0; BLOCK.max(self.header.len())];
        let mut same = true;
        let mut take = |bytes: &mut [u8]| -> Result<usize, FileError> {
            let n = read_full(&mut file, bytes).map_err(FileError::at("read", path))?;
            hasher.update(&bytes[..n]);
            Ok(n)
        };
        let n = take(&mut block[..self.header.len()])?;
        same &= block[..n] == self.header;
        if same {
            for range in &self.ranges {
                for values in flat[range.clone()].chunks_mut(BLOCK / 4) {
                    let bytes = &mut block[..4 * values.len()];
                    same &= take(bytes)? == bytes.len();
                    for (value, word) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                        *value = f32::from_le_bytes(*word);
                    }
                }
            }
        }
        while take(&mut block)? > 0 {
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

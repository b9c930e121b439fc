//! Training metrics: one JSON object per step in `metrics.jsonl`, the same scalars for TensorBoard beside it.

use crate::tensorboard;
use herd_run::atomic::FileError;
use serde_json::{Map, Value};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Name of the JSON lines file inside the metrics folder.
pub const JSONL: &str = "metrics.jsonl";

/// Name of the TensorBoard file: fixed, so that a resumed run appends to it (TensorBoard looks for `tfevents`).
pub const EVENTS: &str = "events.out.tfevents.0.herd";

/// Appends metrics to a folder. Every write reaches the operating system at once: a killed process loses nothing.
pub struct Writer {
    jsonl: File,
    events: File,
    folder: PathBuf,
}

impl Writer {
    /// Opens (or begins) the metrics of a folder for a run that has done `last_step` steps: whatever the files hold
    /// of later steps, or half-written, is cut off.
    pub fn open(folder: &Path, last_step: u64) -> Result<Self, FileError> {
        fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
        let jsonl = open_cut(&folder.join(JSONL), |bytes| sound_lines(bytes, last_step))?;
        let path = folder.join(EVENTS);
        let mut events = open_cut(&path, |bytes| tensorboard::sound_prefix(bytes, last_step))?;
        if events.metadata().map_err(FileError::at("read", &path))?.len() == 0 {
            events.write_all(&tensorboard::header(now())).map_err(FileError::at("write", &path))?;
        }
        Ok(Self { jsonl, events, folder: folder.to_path_buf() })
    }

    /// Writes the scalars of a step under their names, which become TensorBoard's tags: `train/loss`. Steps are
    /// counted from 1 (steps done) and never fall; one step may be written several times with different names.
    pub fn write(&mut self, step: u64, values: &[(&str, f64)]) -> Result<(), FileError> {
        let time = now();
        let mut line = Map::new();
        line.insert("step".into(), step.into());
        line.insert("time".into(), time.into());
        line.extend(values.iter().map(|&(name, value)| (name.to_string(), Value::from(value))));
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        self.jsonl.write_all(text.as_bytes()).map_err(FileError::at("write", self.folder.join(JSONL)))?;
        let narrow: Vec<_> = values.iter().map(|&(name, value)| (name, value as f32)).collect();
        let event = tensorboard::scalars(time, step, &narrow);
        self.events.write_all(&event).map_err(FileError::at("write", self.folder.join(EVENTS)))
    }

    /// Makes everything written so far survive a power cut; called before a checkpoint of the same step.
    pub fn sync(&self) -> Result<(), FileError> {
        self.jsonl.sync_data().map_err(FileError::at("write", self.folder.join(JSONL)))?;
        self.events.sync_data().map_err(FileError::at("write", self.folder.join(EVENTS)))
    }
}

/// Reads every line of a folder's `metrics.jsonl`; a half-written last line is left out.
pub fn read(folder: &Path) -> Result<Vec<Map<String, Value>>, FileError> {
    let path = folder.join(JSONL);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let bytes = herd_run::atomic::read(&path)?;
    Ok(lines(&bytes).map_while(|(line, _)| line).collect())
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |t| t.as_secs_f64())
}

/// Opens a file for appending after cutting it to the prefix that `sound` finds in it.
fn open_cut(path: &Path, sound: impl FnOnce(&[u8]) -> usize) -> Result<File, FileError> {
    let bytes = if path.exists() { herd_run::atomic::read(path)? } else { Vec::new() };
    let mut options = OpenOptions::new();
    let file = options.create(true).append(true).open(path).map_err(FileError::at("open", path))?;
    file.set_len(sound(&bytes) as u64).map_err(FileError::at("cut", path))?;
    Ok(file)
}

/// Each complete line as an object (`None` if it is not one) with the offset just behind it.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (Option<Map<String, Value>>, usize)> + '_ {
    let mut at = 0;
    bytes.split_inclusive(|&b| b == b'\n').filter(|line| line.ends_with(b"\n")).map(move |line| {
        at += line.len();
        (serde_json::from_slice(line).ok(), at)
    })
}

fn sound_lines(bytes: &[u8], last_step: u64) -> usize {
    lines(bytes)
        .map_while(|(line, end)| {
            let step = line?.get("step")?.as_u64()?;
            (step <= last_step).then_some(end)
        })
        .last()
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_writer_cuts_what_came_after_its_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), 0).unwrap();
        for step in 1..=5 {
            writer.write(step, &[("train/loss", step as f64)]).unwrap();
        }
        writer.write(5, &[("held_out/loss", f64::NAN)]).unwrap();
        drop(writer);
        let jsonl = dir.path().join(JSONL);
        let mut torn = fs::read(&jsonl).unwrap();
        torn.extend(b"{\"step\": 6, \"tra");
        fs::write(&jsonl, torn).unwrap();
        assert_eq!(read(dir.path()).unwrap().len(), 6);

        let mut writer = Writer::open(dir.path(), 3).unwrap();
        writer.write(4, &[("train/loss", 40.0)]).unwrap();
        let lines = read(dir.path()).unwrap();
        let losses: Vec<_> = lines.iter().map(|l| l["train/loss"].as_f64().unwrap()).collect();
        assert_eq!(losses, [1.0, 2.0, 3.0, 40.0]);
        let events = fs::read(dir.path().join(EVENTS)).unwrap();
        assert_eq!(tensorboard::sound_prefix(&events, 10), events.len());
        let to_three = tensorboard::sound_prefix(&events, 3);
        assert_eq!(events.len() - to_three, tensorboard::scalars(0.0, 4, &[("train/loss", 40.0)]).len());
    }

    #[test]
    fn a_fresh_start_in_an_old_folder_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        Writer::open(dir.path(), 0).unwrap().write(1, &[("a", 1.0)]).unwrap();
        Writer::open(dir.path(), 0).unwrap();
        assert!(read(dir.path()).unwrap().is_empty());
        assert_eq!(fs::read(dir.path().join(EVENTS)).unwrap().len(), tensorboard::header(0.0).len());
    }
}

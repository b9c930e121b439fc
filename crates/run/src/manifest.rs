//! `manifest.json` of a run folder: for each stage the hash of its settings and inputs, its outputs and its state.
//! A stage whose key is unchanged and whose outputs are there is not run again.

use crate::atomic::{self, FileError};
use crate::hash;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Version of the manifest's layout.
const FORMAT: u32 = 1;

/// How far a stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageState {
    /// Started; a later run continues from what the stage left in its folder.
    Started,
    /// Finished; its outputs are complete.
    Done,
}

/// What the manifest keeps about one stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// How far it has come.
    pub state: StageState,
    /// Hash of its settings and of its inputs' contents.
    pub key: String,
    /// Inputs by name, each with the hash of its content.
    pub inputs: BTreeMap<String, String>,
    /// The stage's settings as they were.
    pub settings: serde_json::Value,
    /// Wall time spent in it over all its runs, seconds.
    pub seconds: f64,
}

/// The manifest of one run folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Name of the recipe.
    pub recipe: String,
    /// Stages in the order in which they first ran.
    stages: BTreeMap<String, StageRecord>,
    #[serde(skip)]
    path: PathBuf,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It was written by another version of the program.
    #[error("{}: manifest format {found}, this program reads format {FORMAT}; use another run folder", path.display())]
    Format {
        /// The manifest.
        path: PathBuf,
        /// The format it states.
        found: u32,
    },
}

impl Manifest {
    /// Opens the manifest of a run folder, or begins one (nothing is written before the first stage starts).
    pub fn open(folder: &Path, recipe: &str) -> Result<Self, ManifestError> {
        let path = folder.join("manifest.json");
        if !path.exists() {
            return Ok(Self { format: FORMAT, recipe: recipe.to_string(), stages: BTreeMap::new(), path });
        }
        let mut manifest: Self = atomic::read_json(&path)?;
        if manifest.format != FORMAT {
            return Err(ManifestError::Format { path, found: manifest.format });
        }
        manifest.recipe = recipe.to_string();
        manifest.path = path;
        Ok(manifest)
    }

    /// The record of a stage, if it ever started.
    pub fn stage(&self, name: &str) -> Option<&StageRecord> {
        self.stages.get(name)
    }

    /// Whether the stage finished with this key.
    pub fn is_done(&self, name: &str, key: &str) -> bool {
        self.stage(name).is_some_and(|s| s.state == StageState::Done && s.key == key)
    }

    /// Records that a stage starts. Returns whether what an earlier start with the same key left may be continued;
    /// if not, the caller clears the stage's folder.
    pub fn start(
        &mut self,
        name: &str,
        inputs: BTreeMap<String, String>,
        settings: serde_json::Value,
    ) -> Result<bool, ManifestError> {
        let key = Self::key(&settings, &inputs);
        let (same, seconds) = match self.stages.get(name) {
            Some(old) if old.key == key => (true, old.seconds),
            _ => (false, 0.0),
        };
        let record = StageRecord { state: StageState::Started, key, inputs, settings, seconds };
        self.stages.insert(name.to_string(), record);
        self.save()?;
        Ok(same)
    }

    /// Records that a stage that did not finish worked for `seconds` more.
    pub fn pause(&mut self, name: &str, seconds: f64) -> Result<(), ManifestError> {
        if let Some(stage) = self.stages.get_mut(name) {
            stage.seconds += seconds;
        }
        self.save()
    }

    /// Records that a stage finished after `seconds` more of work.
    pub fn finish(&mut self, name: &str, seconds: f64) -> Result<(), ManifestError> {
        if let Some(stage) = self.stages.get_mut(name) {
            stage.state = StageState::Done;
            stage.seconds += seconds;
        }
        self.save()
    }

    /// The key of a stage: hash of its settings and of its inputs' hashes.
    pub fn key(settings: &serde_json::Value, inputs: &BTreeMap<String, String>) -> String {
        hash::of_bytes(format!("{settings}\n{inputs:?}").as_bytes())
    }

    fn save(&self) -> Result<(), ManifestError> {
        Ok(atomic::write_json(&self.path, self)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stage_is_done_only_with_the_same_settings_and_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = BTreeMap::from([("crawl".to_string(), "aa".to_string())]);
        let mut m = Manifest::open(dir.path(), "r").unwrap();
        assert!(!m.start("data", inputs.clone(), json!({"n": 1})).unwrap());
        m.finish("data", 2.0).unwrap();
        let mut again = Manifest::open(dir.path(), "r").unwrap();
        assert!(again.is_done("data", &Manifest::key(&json!({"n": 1}), &inputs)));
        assert!(!again.is_done("data", &Manifest::key(&json!({"n": 2}), &inputs)));
        assert!(again.start("data", inputs, json!({"n": 1})).unwrap(), "the same key continues");
        assert_eq!(again.stage("data").unwrap().seconds, 2.0);
        again.pause("data", 3.0).unwrap();
        let paused = Manifest::open(dir.path(), "r").unwrap();
        let stage = paused.stage("data").unwrap();
        assert_eq!((stage.state, stage.seconds), (StageState::Started, 5.0));
    }
}

//! The files of a run folder that the report reads. A file that is missing or broken is noted and left out.

use crate::json::Json;
use herd_data::rejects::{self, Reject};
use herd_run::atomic;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Rejects kept of each rule, as samples.
const SAMPLES: usize = 3;

/// Rejects that are looked through for samples at most.
const MOST_REJECTS: usize = 1_000_000;

/// Lines of a JSON Lines file that are read at most (one a training step).
const MOST_LINES: usize = 2_000_000;

/// What could be read of a run folder.
#[derive(Debug, Default)]
pub struct Folder {
    /// The folder.
    pub path: PathBuf,
    /// `manifest.json`.
    manifest: Option<Value>,
    funnel: Option<Value>,
    data: Option<Value>,
    tokenizer: Option<Value>,
    index: Option<Value>,
    pretrain: Option<Value>,
    align: Option<Value>,
    /// `eval/MODEL/summary.json`: base first, chat after it, then others by name.
    evals: Vec<(String, Value)>,
    model: Option<Value>,
    /// `pretrain/metrics.jsonl`, one object a step.
    pub metrics: Vec<Value>,
    /// Metrics of alignment, `align/NAME/metrics.jsonl`, by the folder's name.
    pub align_metrics: Vec<(String, Vec<Value>)>,
    /// Instruction examples answered by the base and by the chat model.
    pub answers: [Vec<Value>; 2],
    /// Dropped documents, the first few of every rule.
    pub rejects: Vec<Reject>,
    /// Files that exist and cannot be read, each with the reason.
    pub problems: Vec<String>,
}

impl Folder {
    /// Reads what is there.
    pub fn read(path: &Path) -> Self {
        let mut folder = Self { path: path.to_path_buf(), ..Self::default() };
        folder.manifest = folder.json("manifest.json");
        folder.funnel = folder.json("data/funnel.json");
        folder.data = folder.json("data/summary.json");
        folder.rejects = folder.sample_rejects();
        folder.tokenizer = folder.json("tokenizer/summary.json");
        folder.index = folder.json("shards/index.json");
        folder.pretrain = folder.json("pretrain/summary.json");
        folder.align = folder.json("align/summary.json");
        folder.evals = folder.all_evals();
        folder.model = folder.json("models/base/config.json");
        folder.metrics = folder.lines("pretrain/metrics.jsonl");
        folder.align_metrics = folder.all_align_metrics();
        folder.answers = ["base", "chat"].map(|m| folder.lines(&format!("eval/{m}/instructions.jsonl")));
        folder
    }

    fn json(&mut self, name: &str) -> Option<Value> {
        let path = self.path.join(name);
        if !path.exists() {
            return None;
        }
        atomic::read_json(&path).map_err(|error| self.problems.push(error.to_string())).ok()
    }

    fn lines(&mut self, name: &str) -> Vec<Value> {
        let path = self.path.join(name);
        if !path.exists() {
            return Vec::new();
        }
        let bytes = match atomic::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problems.push(error.to_string());
                return Vec::new();
            }
        };
        let lines: Vec<&[u8]> =
            bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()).take(MOST_LINES).collect();
        let values: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
        // A run that was killed may leave half a last line; anything more is worth a word.
        let broken = lines.len() - values.len();
        if broken > usize::from(!bytes.ends_with(b"\n")) {
            self.problems.push(format!("{}: {broken} lines are not JSON and were left out", path.display()));
        }
        values
    }

    fn sample_rejects(&mut self) -> Vec<Reject> {
        let path = self.path.join("data/rejects.parquet");
        if !path.exists() {
            return Vec::new();
        }
        let mut samples: Vec<Reject> = Vec::new();
        let read = rejects::read(&path).map(|all| all.take(MOST_REJECTS));
        let outcome = read.and_then(|mut all| {
            all.try_for_each(|reject| {
                let reject = reject?;
                let known = samples.iter().filter(|sample| sample.reason.rule == reject.reason.rule).count();
                if known < SAMPLES {
                    samples.push(reject);
                }
                Ok(())
            })
        });
        if let Err(error) = outcome {
            self.problems.push(error.to_string());
        }
        samples
    }

    /// Names of the folders in a folder, sorted.
    fn folders(&self, of: &str) -> Vec<String> {
        let mut names: Vec<String> = match std::fs::read_dir(self.path.join(of)) {
            Ok(entries) => entries
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        names
    }

    /// `align/NAME/metrics.jsonl`, in the order of names.
    fn all_align_metrics(&mut self) -> Vec<(String, Vec<Value>)> {
        let names = self.folders("align");
        let read = |name: String| {
            let lines = self.lines(&format!("align/{name}/metrics.jsonl"));
            (name, lines)
        };
        names.into_iter().map(read).filter(|(_, lines)| !lines.is_empty()).collect()
    }

    fn all_evals(&mut self) -> Vec<(String, Value)> {
        let mut names = self.folders("eval");
        names.sort_by_key(|name| ["base", "chat"].iter().position(|known| known == name).unwrap_or(2));
        let read = |name: String| Some((name.clone(), self.json(&format!("eval/{name}/summary.json"))?));
        names.into_iter().filter_map(read).collect()
    }

    /// `manifest.json`.
    pub fn manifest(&self) -> Json<'_> {
        Json::new(self.manifest.as_ref())
    }

    /// `data/funnel.json`.
    pub fn funnel(&self) -> Json<'_> {
        Json::new(self.funnel.as_ref())
    }

    /// `data/summary.json`.
    pub fn data(&self) -> Json<'_> {
        Json::new(self.data.as_ref())
    }

    /// `tokenizer/summary.json`.
    pub fn tokenizer(&self) -> Json<'_> {
        Json::new(self.tokenizer.as_ref())
    }

    /// `shards/index.json`.
    pub fn index(&self) -> Json<'_> {
        Json::new(self.index.as_ref())
    }

    /// `pretrain/summary.json`.
    pub fn pretrain(&self) -> Json<'_> {
        Json::new(self.pretrain.as_ref())
    }

    /// `align/summary.json`.
    pub fn align(&self) -> Json<'_> {
        Json::new(self.align.as_ref())
    }

    /// Every evaluated model with its `eval/MODEL/summary.json`: base, chat, others.
    pub fn evals(&self) -> impl Iterator<Item = (&str, Json<'_>)> {
        self.evals.iter().map(|(name, value)| (name.as_str(), Json::new(Some(value))))
    }

    /// The evaluation of the base model; of another if the base was not evaluated.
    pub fn base_eval(&self) -> Json<'_> {
        self.evals().next().map_or(Json::new(None), |(_, value)| value)
    }

    /// `models/base/config.json`.
    pub fn model(&self) -> Json<'_> {
        Json::new(self.model.as_ref())
    }

    /// Name of the run: its recipe, or the folder's name.
    pub fn name(&self) -> String {
        let recipe = self.manifest().at("recipe").text().filter(|name| !name.is_empty());
        let name = recipe.map(str::to_string).or_else(|| {
            let path = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
            path.file_name().map(|name| name.to_string_lossy().into_owned())
        });
        name.unwrap_or_else(|| "run".into())
    }

    /// Settings of a stage as the manifest keeps them.
    pub fn settings(&self, stage: &str) -> Json<'_> {
        self.manifest().at("stages").at(stage).at("settings")
    }
}

//! The layout of a run folder.

use std::path::{Path, PathBuf};

/// `runs/NAME`: where every stage of a run writes.
#[derive(Debug, Clone)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }
    /// Clean documents, rejects and the funnel.
    pub fn data(&self) -> PathBuf {
        self.0.join("data")
    }
    /// The clean documents.
    pub fn documents(&self) -> PathBuf {
        self.data().join("documents.parquet")
    }
    /// `tokenizer.json` and its companions.
    pub fn tokenizer(&self) -> PathBuf {
        self.0.join("tokenizer")
    }
    /// Token shards by domain.
    pub fn shards(&self) -> PathBuf {
        self.0.join("shards")
    }
    /// Checkpoints and metrics of pre-training.
    pub fn pretrain(&self) -> PathBuf {
        self.0.join("pretrain")
    }
    /// Checkpoints, samples and metrics of post-training.
    pub fn align(&self) -> PathBuf {
        self.0.join("align")
    }
    /// Evaluation results of a model of this run.
    pub fn eval(&self, model: &str) -> PathBuf {
        self.0.join("eval").join(model)
    }
    /// All models of this run.
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }
    /// One model in Hugging Face form.
    pub fn model(&self, name: &str) -> PathBuf {
        self.models().join(name)
    }
    /// The report.
    pub fn report(&self) -> PathBuf {
        self.0.join("report.html")
    }
}

/// The model that `path` means: a GGUF file or model folder as it is, or the most finished model of a run folder.
pub fn model_folder(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.exists() {
        anyhow::bail!(
            "{} does not exist; name a .gguf file, a Hugging Face folder or a run folder",
            path.display()
        );
    }
    if herd_infer::gguf::is_gguf(path) || path.join("config.json").exists() {
        return Ok(path.to_path_buf());
    }
    let run = RunFolder::at(path);
    for name in ["chat", "sft", "base"] {
        let folder = run.model(name);
        if folder.join("config.json").exists() {
            return Ok(folder);
        }
    }
    if path.is_file() {
        anyhow::bail!(
            "{} is a file that does not begin as GGUF does; a model in safetensors is named by its folder",
            path.display()
        );
    }
    anyhow::bail!(
        "{} is neither a model (a .gguf file, or a folder with config.json, model.safetensors and tokenizer.json) \
         nor a run folder with a finished model",
        path.display()
    )
}

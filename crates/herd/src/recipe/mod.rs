//! The recipe: one TOML file that says everything about a run. Each table belongs to the crate that does the work;
//! this module only puts them together and turns every mistake into file, line and remedy.

mod locate;

use anyhow::{Context as _, anyhow};
use herd_run::SettingError;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A whole run, from crawl to report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Names the run folder: `runs/NAME`.
    pub name: String,
    /// Seeds everything random in the run.
    pub seed: u64,
    /// From crawl to documents.
    pub data: herd_data::Settings,
    /// Training the tokenizer.
    #[serde(default)]
    pub tokenizer: herd_tokenizer::train::Settings,
    /// From documents to token shards.
    #[serde(default)]
    pub shards: herd_data::shards::Settings,
    /// Shape of the model.
    #[serde(default)]
    pub model: herd_model::Settings,
    /// Pre-training, long context, annealing.
    #[serde(default)]
    pub pretrain: herd_train::Settings,
    /// Post-training.
    #[serde(default)]
    pub align: herd_align::Settings,
    /// Evaluation.
    #[serde(default)]
    pub eval: herd_eval::Settings,
}

impl Recipe {
    /// Reads and checks a recipe. An error names the file, the line and what would be right.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("cannot read recipe {} (recipes that come with Herd are in recipes/)", path.display())
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads and checks the text of a recipe; `file` is named in errors.
    pub fn parse(text: &str, file: &str) -> anyhow::Result<Self> {
        let mut recipe: Self = toml::from_str(text).map_err(|e| anyhow!("{file}: {e}"))?;
        recipe.spread_seed(text);
        recipe.validate().map_err(|e| {
            let place = match locate::line_of(text, &e.key) {
                Some(line) => format!("{file}:{line}"),
                None => format!("{file} (default value)"),
            };
            anyhow!("{place}: {e}")
        })?;
        Ok(recipe)
    }

    /// Gives the run's seed to every stage whose table names none of its own.
    fn spread_seed(&mut self, text: &str) {
        let seed = self.seed;
        let stages = [
            ("pretrain", &mut self.pretrain.seed),
            ("align", &mut self.align.seed),
            ("eval", &mut self.eval.seed),
        ];
        for (table, stage_seed) in stages {
            if !locate::has_key(text, table, "seed") {
                *stage_seed = seed;
            }
        }
    }

    fn validate(&self) -> Result<(), SettingError> {
        if self.name.is_empty() || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return Err(SettingError::new(
                "name",
                "must be letters, digits, `-`, `_` or `.`: it names the run folder",
            ));
        }
        self.data.validate().map_err(|e| e.within("data"))?;
        self.tokenizer.validate().map_err(|e| e.within("tokenizer"))?;
        self.shards.validate().map_err(|e| e.within("shards"))?;
        self.model.validate().map_err(|e| e.within("model"))?;
        self.pretrain.validate().map_err(|e| e.within("pretrain"))?;
        self.align.validate().map_err(|e| e.within("align"))?;
        self.eval.validate().map_err(|e| e.within("eval"))?;
        Ok(())
    }
}

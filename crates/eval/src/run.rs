//! The stage: all tasks on one model, each kept as soon as it is finished.

use crate::bits_per_byte::{self, BitsPerByte};
use crate::choices::{self, Task};
use crate::held_out::Shards;
use crate::instructions::{self, Instructions};
use crate::likelihood::Scorer;
use crate::needle::{self, Needle};
use crate::{Error, Settings};
use herd_infer::Generator;
use herd_run::atomic::{self, FileError};
use herd_run::{Context, hash};
use herd_tokenizer::Tokenizer;
use herd_tokenizer::shard::ShardIndex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// `summary.json`: everything measured on one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Parameters of the model.
    pub parameters: usize,
    /// Bits per byte beside n-gram models.
    pub bits_per_byte: BitsPerByte,
    /// Needle recall, if measured.
    pub needle: Option<Needle>,
    /// Multiple choice by task.
    pub choices: Vec<Task>,
    /// Held-out instructions, if a file was given.
    pub instructions: Option<Instructions>,
    /// How the intervals were made.
    pub methods: Methods,
}

/// How the intervals were made, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Methods {
    /// Of bits per byte and F1.
    pub ratio: String,
    /// Of shares of right answers.
    pub proportion: String,
    /// Of the comparison with n-gram models.
    pub paired: String,
}

impl Default for Methods {
    fn default() -> Self {
        let resamples = crate::interval::RESAMPLES;
        Self {
            ratio: format!(
                "95% percentile bootstrap over documents or examples, {resamples} resamples, seeded"
            ),
            proportion:
                "normal: S ± 1.96 sqrt(S(1-S)/N) (SPEC EVAL-1); wilson: Wilson's score interval at 95%".into(),
            paired: format!(
                "paired bootstrap over documents, {resamples} resamples; p_value is one-sided: the share of resamples \
                 in which the Transformer is not better"
            ),
        }
    }
}

/// Evaluates the model in folder `model` (which holds its tokenizer) on the held-out documents of `shards` and writes
/// `summary.json` and a JSON Lines file with every example of each task into `out`. A finished task is not repeated.
///
/// # Errors
/// Settings that cannot work, files that are missing or damaged, shards of another tokenizer, a stop.
pub fn run(
    settings: &Settings,
    model: &Path,
    shards: &Path,
    out: &Path,
    ctx: &Context,
) -> Result<Summary, Error> {
    settings.validate()?;
    let tokenizer = Tokenizer::load(model)?;
    let (llama, params) = herd_model::weights::load(model)?;
    if llama.config.vocab_size < tokenizer.vocab_size() {
        return Err(Error::Mismatch(format!(
            "{}: the model has {} embeddings, but its tokenizer.json has {} tokens",
            model.display(),
            llama.config.vocab_size,
            tokenizer.vocab_size()
        )));
    }
    let stage = Stage { settings, out, ctx, inputs: inputs(model, shards)? };
    let shards = Shards::open(shards, &tokenizer)?;
    let scorer = Scorer { llama: &llama, params: &params, batch_rows: settings.batch_rows };

    let bits_per_byte = stage
        .task("bits_per_byte", &[], || bits_per_byte::measure(settings, &scorer, &tokenizer, &shards, ctx))?;
    let needle = stage.task("needle", &[], || {
        let measured = needle::measure(settings, &scorer, &tokenizer, &shards, ctx)?;
        Ok(measured.map_or((None, Vec::new()), |(needle, records)| (Some(needle), records)))
    })?;
    let files: Vec<&Path> = settings.choices.files.iter().map(|file| file.as_path()).collect();
    let choices = stage.task("choices", &files, || {
        let mut questions = choices::from_held_out(settings, &tokenizer, &shards);
        for file in &files {
            questions.extend(choices::read(file, &tokenizer)?);
        }
        choices::measure(questions, &scorer, ctx)
    })?;
    let parameters = llama.config.parameters();
    let instructions = match &settings.instructions.file {
        None => None,
        Some(file) => Some(stage.task("instructions", &[file], || {
            let limits = herd_infer::Settings {
                device: settings.instructions.device,
                ..herd_infer::Settings::default()
            };
            let generator = Generator::new(llama, params, tokenizer, limits)?;
            instructions::measure(settings, file, &generator, ctx)
        })?),
    };
    let summary =
        Summary { parameters, bits_per_byte, needle, choices, instructions, methods: Methods::default() };
    atomic::write_json(&out.join("summary.json"), &summary)?;
    Ok(summary)
}

/// Hash of all that decides a result besides settings and files of examples.
fn inputs(model: &Path, shards: &Path) -> Result<String, Error> {
    let weights = hash::of_path(model)?;
    let index = ShardIndex::load(shards)?;
    let mut all = format!("{weights} {}", hash::of_file(&shards.join(ShardIndex::FILE))?);
    for domain in &index.domains {
        for file in [&domain.train.file, &domain.held_out.file] {
            all += &hash::of_file(&shards.join(file))?;
        }
    }
    Ok(hash::of_bytes(all.as_bytes()))
}

struct Stage<'a> {
    settings: &'a Settings,
    out: &'a Path,
    ctx: &'a Context,
    inputs: String,
}

/// A finished task as kept on disk.
#[derive(Serialize, Deserialize)]
struct Kept<T> {
    /// Settings, inputs and example files that it came from.
    key: String,
    result: T,
}

impl Stage<'_> {
    /// The result of a task: what an earlier run kept under the same key, or measured now. Records are written before
    /// the result, so a result always has its records.
    fn task<T: Serialize + DeserializeOwned, R: Serialize>(
        &self,
        name: &str,
        files: &[&Path],
        measure: impl FnOnce() -> Result<(T, Vec<R>), Error>,
    ) -> Result<T, Error> {
        self.ctx.stop.check()?;
        let settings = serde_json::to_string(self.settings).unwrap_or_default();
        let mut key = format!("{settings} {}", self.inputs);
        for file in files {
            key += &hash::of_path(file)?;
        }
        let key = hash::of_bytes(key.as_bytes());
        let path = self.out.join(format!("{name}.json"));
        if path.exists()
            && let Ok(kept) = atomic::read_json::<Kept<T>>(&path)
            && kept.key == key
        {
            self.ctx.progress.detail(format!("{name}: kept from an earlier run"));
            return Ok(kept.result);
        }
        let (result, records) = measure()?;
        write_lines(&self.out.join(format!("{name}.jsonl")), &records)?;
        let kept = Kept { key, result };
        atomic::write_json(&path, &kept)?;
        Ok(kept.result)
    }
}

fn write_lines<R: Serialize>(path: &Path, records: &[R]) -> Result<(), FileError> {
    atomic::create(path, |out| {
        for record in records {
            serde_json::to_writer(&mut *out, record)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(FileError::at("write", path))?;
        }
        Ok(())
    })
}

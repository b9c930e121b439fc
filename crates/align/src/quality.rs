//! A Transformer that scores documents (SPEC DATA-5): a pre-trained Llama with the reward model's head of one output, read
//! at the text's last token, trained on labels by logistic loss. The paper distils a chat model's judgement into
//! DistilRoBERTa; here the small model is one of our own, so the data stage needs nothing that Herd does not have.

use crate::Error;
use crate::loss::negative_log_sigmoid;
use crate::optimize::{self, Objective, Place, Values, add};
use crate::pack::{Packer, chunks, plan};
use crate::reward::RewardModel;
use crate::settings::Optimization;
use herd_model::{Head, Llama, weights};
use herd_run::atomic::{self, FileError};
use herd_run::{Context, SettingError, hash};
use herd_tensor::{Grads, Params, Tape, Tensor};
use herd_tokenizer::Tokenizer;
use serde_json::json;
use std::path::{Path, PathBuf};

/// How a quality model is trained.
#[derive(Debug, Clone)]
pub struct QualitySettings {
    /// Optimisation.
    pub train: Optimization,
    /// The label that a score above 0 means, and the other.
    pub labels: [String; 2],
    /// Tokens of a text that are read.
    pub max_tokens: usize,
    /// Seed of the order.
    pub seed: u64,
}

/// A text as tokens, and whether it has the label.
struct Labelled {
    tokens: Vec<u32>,
    truth: bool,
}

struct QualityObjective<'a> {
    llama: &'a Llama,
    examples: &'a [Labelled],
    steps: Vec<Vec<usize>>,
    micro_batch_tokens: usize,
}

/// Loss, right answers and `d loss / d score` of scores, as shares of a batch of `count` texts.
fn logistic(scores: &[f32], truths: &[bool], count: usize) -> (f64, f64, Vec<f32>) {
    let (mut loss, mut right, mut gradient) = (0.0, 0.0, Vec::new());
    let share = 1.0 / count.max(1) as f64;
    for (score, truth) in scores.iter().zip(truths) {
        let sign = if *truth { 1.0 } else { -1.0 };
        let (value, slope) = negative_log_sigmoid(sign * f64::from(*score));
        loss += share * value;
        right += share * ((*score > 0.0) == *truth) as u8 as f64;
        gradient.push((share * sign * slope) as f32);
    }
    (loss, right, gradient)
}

impl Objective for QualityObjective<'_> {
    fn steps(&self) -> u64 {
        self.steps.len() as u64
    }

    fn step(&self, step: u64, params: &Params, grads: &mut Grads) -> Values {
        let batch: Vec<&Labelled> = self.steps[step as usize].iter().map(|&e| &self.examples[e]).collect();
        let lengths: Vec<usize> = batch.iter().map(|e| e.tokens.len()).collect();
        let mut values = Values::new();
        for part in chunks(&lengths, self.micro_batch_tokens) {
            let mut packer = Packer::default();
            let last: Vec<usize> =
                batch[part.clone()].iter().map(|e| packer.dialog(&e.tokens).end - 1).collect();
            let truths: Vec<bool> = batch[part].iter().map(|e| e.truth).collect();
            let mut tape = Tape::new(params);
            let hidden = self.llama.hidden(&mut tape, &packer.finish());
            let last = tape.select_rows(&hidden, &last);
            let scores = tape.linear(&last, self.llama.head());
            let (loss, right, gradient) = logistic(scores.value().as_slice(), &truths, batch.len());
            let gradient = Tensor::from_slice(&gradient, scores.shape());
            tape.backward_from([(scores, gradient)], grads);
            add(&mut values, vec![("loss", loss), ("accuracy", right)]);
        }
        values
    }

    fn held_out(&self, _: &Params) -> Values {
        Values::new()
    }
}

/// Trains a quality model from the language model in `base` on texts with the positive label and others, and writes it to
/// `out` as a Hugging Face folder (`LlamaForSequenceClassification`) with its tokenizer and `classifier.json`. A run
/// that was stopped continues from `out` with `.work` added, which is removed at the end.
///
/// # Errors
///
/// A base that is no language model with a tokenizer; no examples; a loss that is not a number.
pub fn train_quality(
    base: &Path,
    examples: &[(&str, bool)],
    out: &Path,
    settings: &QualitySettings,
    ctx: &Context,
) -> Result<(), Error> {
    let tokenizer = Tokenizer::load(base)?;
    let (llama, params) = weights::load(base)?;
    if llama.head_kind != Head::Language {
        let problem = "is no language model; name a run's base or chat model".to_string();
        return Err(Error::Empty { file: base.join("model.safetensors"), problem });
    }
    let longest = llama.config.max_position_embeddings;
    if settings.max_tokens > longest {
        let problem = format!("{} is beyond the model's context of {longest}", settings.max_tokens);
        return Err(SettingError::new("max_tokens", problem).into());
    }
    if examples.is_empty() {
        return Err(SettingError::new("examples", "there are none to learn from").into());
    }
    let model = RewardModel::on(&llama, &params);
    let examples: Vec<Labelled> = examples
        .iter()
        .map(|(text, truth)| Labelled {
            tokens: tokens(&tokenizer, text, settings.max_tokens),
            truth: *truth,
        })
        .collect();
    let lengths: Vec<usize> = examples.iter().map(|e| e.tokens.len()).collect();
    let train = &settings.train;
    let objective = QualityObjective {
        llama: &model.llama,
        examples: &examples,
        steps: plan(&lengths, train.batch_tokens, train.epochs, settings.seed),
        micro_batch_tokens: train.micro_batch_tokens,
    };
    let work = work(out, base, &examples, settings)?;
    let place = Place { name: "quality", folder: &work, ctx };
    let runs = optimize::train(&place, &model.llama, &model.params, train, &objective)?;
    let (trained, params) = weights::load(&runs[0])?;
    atomic::create_folder(out, |folder| {
        weights::save(folder, &trained, &params)?;
        tokenizer.save(folder)?;
        let about = json!({ "labels": settings.labels, "max_tokens": settings.max_tokens });
        atomic::write_json(&folder.join("classifier.json"), &about)?;
        Ok::<_, Error>(())
    })?;
    Ok(std::fs::remove_dir_all(&work).map_err(FileError::at("remove", &work))?)
}

/// The folder of unfinished work, empty if what is in it belongs to another base, other texts or settings.
fn work(
    out: &Path,
    base: &Path,
    examples: &[Labelled],
    settings: &QualitySettings,
) -> Result<PathBuf, Error> {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(".work");
    let work = out.with_file_name(name);
    let mut key = format!("{settings:?} {}", hash::of_path(base)?);
    for example in examples {
        let bytes: Vec<u8> = example.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        key.push_str(&format!("\n{} {}", example.truth, hash::of_bytes(&bytes)));
    }
    let (key, marker) = (hash::of_bytes(key.as_bytes()), work.join("key"));
    if std::fs::read_to_string(&marker).is_ok_and(|old| old == key) {
        return Ok(work);
    }
    if work.exists() {
        std::fs::remove_dir_all(&work).map_err(FileError::at("clear", &work))?;
    }
    std::fs::create_dir_all(&work).map_err(FileError::at("create", &work))?;
    atomic::write(&marker, key)?;
    Ok(work)
}

/// Begin of text and the first tokens of a text.
fn tokens(tokenizer: &Tokenizer, text: &str, most: usize) -> Vec<u32> {
    let mut tokens = vec![tokenizer.specials().bos];
    tokenizer.encode_into(text, &mut tokens);
    tokens.truncate(most);
    tokens
}

#[cfg(test)]
mod tests {
    use super::logistic;

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let (scores, truths) = ([0.3f32, -1.2, 2.5], [true, true, false]);
        let (loss, right, gradient) = logistic(&scores, &truths, 3);
        assert!((right - 1.0 / 3.0).abs() < 1e-12);
        let plain: f64 = scores
            .iter()
            .zip(truths)
            .map(|(s, t)| {
                let p = 1.0 / (1.0 + (-f64::from(*s)).exp());
                -(if t { p } else { 1.0 - p }).ln() / 3.0
            })
            .sum();
        assert!((loss - plain).abs() < 1e-9);
        for n in 0..3 {
            let mut moved = scores;
            moved[n] += 1e-2;
            let numeric = (logistic(&moved, &truths, 3).0 - loss) / f64::from(moved[n] - scores[n]);
            assert!((numeric - f64::from(gradient[n])).abs() < 1e-3, "{numeric} {}", gradient[n]);
        }
    }
}

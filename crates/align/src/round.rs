//! The rounds of post-training: preference data and a pre-trained model in, reward, SFT and chat models out.
//!
//! Every sub-stage works in a folder of its own (`1-reward`, `1-policy`, `1-rejection`, `1-sft`, `1-dpo`, then `2-...`) and
//! ends by writing `done.json` there; until then it continues from its checkpoints. What one hands to the next goes
//! through files, so a resumed run reads the same bits as an uninterrupted one.

use crate::Error;
use crate::dpo::{self, DpoObjective, Reference};
use crate::examples::{self, Dialog, Group};
use crate::optimize::{self, Objective, Place};
use crate::records::{AlignmentData, Message, Role};
use crate::rejection::{self, Sampler, SamplingSummary};
use crate::reward::{self, RewardModel, RewardObjective};
use crate::settings::{Optimization, Settings};
use crate::sft::SftObjective;
use crate::summary::{DpoSummary, RewardSummary, RoundSummary, Sample, SftSummary, Summary};
use herd_infer::{Generator, Sampling};
use herd_model::{Llama, weights};
use herd_run::atomic::{self, FileError};
use herd_run::{Context, SettingError};
use herd_tensor::Params;
use herd_tokenizer::Tokenizer;
use herd_train::{average, metrics};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Runs (or continues) post-training.
///
/// `base` is the folder of the pre-trained model, `tokenizer` the folder or file of its tokenizer, `data` the folder
/// of alignment data. `out` receives a folder for each sub-stage and `summary.json`; `models` receives `reward`, `sft`
/// and `chat` in Hugging Face form. Called again after any interruption with the same arguments it continues from
/// `out`; the weights are the same bits as without the interruption, for any number of threads.
///
/// # Errors
/// A record of the data that breaks a rule, with file and line; a setting that does not fit the model; a loss that is
/// not a number; files that cannot be read or written; a stop that was asked for.
pub fn run(
    settings: &Settings,
    base: &Path,
    tokenizer: &Path,
    data: &Path,
    out: &Path,
    models: &Path,
    ctx: &Context,
) -> Result<Summary, Error> {
    settings.validate()?;
    let stage = Stage::open(settings, base, tokenizer, data, out, ctx)?;
    let mut policy = None;
    let mut rounds = Vec::new();
    for round in 1..=settings.rounds {
        let (summary, chat) = stage.round(round, policy.as_deref())?;
        rounds.push(summary);
        policy = Some(chat);
    }
    let last = settings.rounds;
    for (name, from) in [("reward", "reward"), ("sft", "sft"), ("chat", "dpo")] {
        stage.publish(&stage.folder(last, from).join("model"), &models.join(name))?;
    }
    let samples = stage.samples(last)?;
    let RoundSummary { reward, sampling, sft, dpo, .. } = rounds[rounds.len() - 1].clone();
    let summary = Summary { reward, sampling, sft, dpo, rounds, samples };
    atomic::write_json(&out.join("summary.json"), &summary)?;
    Ok(summary)
}

/// What all rounds share.
struct Stage<'a> {
    settings: &'a Settings,
    tokenizer: Tokenizer,
    base: (Llama, Params),
    data: AlignmentData,
    dialogs: Vec<Dialog>,
    held_out_dialogs: Vec<Dialog>,
    groups: Vec<Group>,
    too_weak: usize,
    held_out_groups: Vec<Group>,
    out: &'a Path,
    ctx: &'a Context,
}

impl<'a> Stage<'a> {
    fn open(
        settings: &'a Settings,
        base: &Path,
        tokenizer: &Path,
        data: &Path,
        out: &'a Path,
        ctx: &'a Context,
    ) -> Result<Self, Error> {
        let tokenizer = Tokenizer::load(tokenizer)?;
        let (llama, params) = weights::load(base)?;
        let context = llama.config.max_position_embeddings;
        if settings.max_tokens > context {
            let problem = format!(
                "{} exceeds the model's context of {context}; choose at most that",
                settings.max_tokens
            );
            return Err(SettingError::new("max_tokens", problem).into());
        }
        if tokenizer.vocab_size() > llama.config.vocab_size {
            let (ours, theirs) = (tokenizer.vocab_size(), llama.config.vocab_size);
            let problem = format!(
                "has {theirs} tokens, the tokenizer {ours}; give the tokenizer that the model was trained with"
            );
            return Err(Error::Empty { file: base.join("config.json"), problem });
        }
        // A chat model ends its turn; the pre-trained one ended documents.
        let mut config = llama.config;
        let specials = tokenizer.specials();
        config.eos_token_ids = vec![specials.end_of_text, specials.eom, specials.eot];
        let base = (Llama::new(config), params);

        let data = AlignmentData::load(data)?;
        let longest = settings.max_tokens;
        let (groups, too_weak) = examples::groups(&tokenizer, &data.preferences, longest)?;
        let (held_out_groups, _) = examples::groups(&tokenizer, &data.held_out_preferences, longest)?;
        for (groups, records) in
            [(&groups, &data.preferences), (&held_out_groups, &data.held_out_preferences)]
        {
            if !groups.iter().any(|g| g.round == 1) {
                let problem = "holds no pair of round 1 that is `better` or `significantly_better`; others are not used";
                return Err(Error::Empty { file: records.file.clone(), problem: problem.into() });
            }
        }
        Ok(Self {
            dialogs: examples::dialogs(&tokenizer, &data.instructions, longest)?,
            held_out_dialogs: examples::dialogs(&tokenizer, &data.held_out_instructions, longest)?,
            settings,
            tokenizer,
            base,
            data,
            groups,
            too_weak,
            held_out_groups,
            out,
            ctx,
        })
    }

    fn folder(&self, round: u32, part: &str) -> PathBuf {
        self.out.join(format!("{round}-{part}"))
    }

    /// A seed of its own for each round and part.
    fn seed(&self, round: u32, part: u64) -> u64 {
        self.settings.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(round) * 16 + part)
    }

    /// One round; returns its summary and the folder of its chat model, the next round's policy.
    fn round(&self, round: u32, policy: Option<&Path>) -> Result<(RoundSummary, PathBuf), Error> {
        let reward = self.reward(round)?;
        let first = round == 1;
        let policy = match policy {
            Some(chat) => chat.to_path_buf(),
            // No chat model yet: the first round samples from one that learned the instructions alone.
            None => self.policy(round)?,
        };
        let sampling = self.rejection(round, &policy)?;
        let sft = self.sft(round, first.then_some(policy.as_path()))?;
        let dpo = self.dpo(round)?;
        let chat = self.folder(round, "dpo").join("model");
        Ok((RoundSummary { round, reward, sampling, sft, dpo }, chat))
    }

    /// Does `work` unless `folder` says that it is done. The result is read back from the file in both cases.
    fn once<T, F>(&self, folder: &Path, work: F) -> Result<T, Error>
    where
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Result<T, Error>,
    {
        let done = folder.join("done.json");
        if !done.exists() {
            self.ctx.stop.check()?;
            atomic::write_json(&done, &work()?)?;
            optimize::clear_runs(folder)?;
        }
        Ok(atomic::read_json(&done)?)
    }

    fn place<'p>(&'p self, name: &'static str, folder: &'p Path) -> Place<'p> {
        Place { name, folder, ctx: self.ctx }
    }

    /// Trains, averages the runs and `others`, and saves the result as `folder/model`.
    fn train(
        &self,
        place: &Place,
        (llama, start): (&Llama, &Params),
        settings: &Optimization,
        objective: &dyn Objective,
        others: &[&Path],
    ) -> Result<(Llama, Params), Error> {
        let mut runs = optimize::train(place, llama, start, settings, objective)?;
        runs.extend(others.iter().map(|path| path.to_path_buf()));
        let (llama, params) = average(&runs)?;
        let model = place.folder.join("model");
        atomic::create_folder(&model, |scratch| -> Result<(), Error> {
            weights::save(scratch, &llama, &params)?;
            Ok(self.tokenizer.save(scratch)?)
        })?;
        // Read back, since the file's number format may be narrower: the same numbers as in a resumed run.
        Ok(weights::load(&model)?)
    }

    fn reward(&self, round: u32) -> Result<RewardSummary, Error> {
        let folder = self.folder(round, "reward");
        self.once(&folder, || {
            let settings = &self.settings.reward;
            let so_far = |groups: &[Group]| groups.iter().filter(|g| g.round <= round).cloned().collect();
            let (groups, too_similar) = reward::distinct(so_far(&self.groups), settings.max_similarity);
            let (held_out, _) = reward::distinct(so_far(&self.held_out_groups), settings.max_similarity);
            let fresh = RewardModel::on(&self.base.0, &self.base.1);
            let objective =
                RewardObjective::new(&fresh.llama, &groups, &held_out, &settings.train, self.seed(round, 1));
            let place = self.place("reward", &folder);
            let start = (&fresh.llama, &fresh.params);
            let (_, params) = self.train(&place, start, &settings.train, &objective, &[])?;
            let pairs = groups.iter().map(|g| g.responses.len() * (g.responses.len() - 1) / 2).sum();
            Ok(RewardSummary {
                accuracy: objective.accuracy(&params),
                prompts: groups.len(),
                pairs,
                too_weak: self.too_weak,
                too_similar,
                steps: objective.steps(),
                held_out: measurements(&folder)?,
            })
        })
    }

    /// SFT of the pre-trained model on the instructions alone.
    fn policy(&self, round: u32) -> Result<PathBuf, Error> {
        let folder = self.folder(round, "policy");
        self.once(&folder, || {
            let objective = self.sft_objective(&self.dialogs, self.seed(round, 2));
            let place = self.place("policy", &folder);
            self.train(&place, (&self.base.0, &self.base.1), &self.settings.sft.train, &objective, &[])?;
            measurements(&folder)
        })?;
        Ok(folder.join("model"))
    }

    fn sft_objective<'d>(&'d self, dialogs: &'d [Dialog], seed: u64) -> SftObjective<'d> {
        SftObjective::new(&self.base.0, dialogs, &self.held_out_dialogs, &self.settings.sft, seed)
    }

    fn rejection(&self, round: u32, policy: &Path) -> Result<SamplingSummary, Error> {
        let folder = self.folder(round, "rejection");
        self.once(&folder, || {
            let settings = &self.settings.rejection;
            let (llama, params) = weights::load(policy)?;
            let limits = herd_infer::Settings {
                device: settings.device,
                cache_tokens: (8 * self.settings.max_tokens * settings.samples).max(1 << 15),
                max_sequences: settings.samples.max(64),
                ..herd_infer::Settings::default()
            };
            let generator = Generator::new(llama, params, self.tokenizer.clone(), limits)?;
            let reward = RewardModel::load(&self.folder(round, "reward").join("model"))?;
            let seed = self.seed(round, 3);
            let prompts = rejection::prompts(&self.data.instructions.records, settings.prompts, seed);
            let max_tokens = self.settings.max_tokens;
            let tokenizer = &self.tokenizer;
            let sampler =
                Sampler { generator: &generator, reward: &reward, tokenizer, settings, max_tokens, seed };
            sampler.run(&prompts, &folder, self.ctx)
        })
    }

    /// SFT of the pre-trained model on the instructions and the kept samples; `other` is a model of another data mix
    /// that joins the average.
    fn sft(&self, round: u32, other: Option<&Path>) -> Result<SftSummary, Error> {
        let folder = self.folder(round, "sft");
        self.once(&folder, || {
            let choices = rejection::read_lines(&self.folder(round, "rejection").join("samples.jsonl"))?;
            let sampled = rejection::dialogs(&self.tokenizer, &choices)?;
            let dialogs = [&self.dialogs[..], &sampled[..]].concat();
            let objective = self.sft_objective(&dialogs, self.seed(round, 4));
            let place = self.place("sft", &folder);
            let others: Vec<&Path> = other.into_iter().filter(|_| self.settings.sft.average_mixes).collect();
            let train = &self.settings.sft.train;
            let start = (&self.base.0, &self.base.1);
            let (_, params) = self.train(&place, start, train, &objective, &others)?;
            Ok(SftSummary {
                dialogs: dialogs.len(),
                sampled: sampled.len(),
                averaged: train.learning_rates.len() * train.average_last + others.len(),
                steps: objective.steps(),
                base_held_out_loss: objective.held_out_loss(&self.base.1),
                held_out_loss: objective.held_out_loss(&params),
                held_out: measurements(&folder)?,
            })
        })
    }

    fn dpo(&self, round: u32) -> Result<DpoSummary, Error> {
        let folder = self.folder(round, "dpo");
        self.once(&folder, || {
            let settings = &self.settings.dpo;
            // Only the latest batch of preferences (SPEC POST-2).
            let latest = self.groups.iter().map(|g| g.round).filter(|&r| r <= round).max().unwrap_or(1);
            let groups: Vec<Group> = self.groups.iter().filter(|g| g.round == latest).cloned().collect();
            let held_out: Vec<Group> =
                self.held_out_groups.iter().filter(|g| g.round <= round).cloned().collect();
            let (llama, start) = weights::load(&self.folder(round, "sft").join("model"))?;
            let of = |groups: &[Group]| -> Vec<Reference> {
                dpo::references(&llama, &start, groups, settings.train.micro_batch_tokens)
            };
            let (references, held_out_references) = (of(&groups), of(&held_out));
            let objective = DpoObjective::new(
                &llama,
                (&groups, references),
                (&held_out, held_out_references),
                settings,
                self.seed(round, 5),
            );
            let before = objective.held_out_outcome(&start);
            let place = self.place("dpo", &folder);
            let (_, params) = self.train(&place, (&llama, &start), &settings.train, &objective, &[])?;
            let after = objective.held_out_outcome(&params);
            Ok(DpoSummary {
                pairs: groups.len(),
                collected_in_round: latest,
                steps: objective.steps(),
                held_out_margin: after.margin,
                held_out_accuracy: after.accuracy,
                chosen_logprob_before: before.chosen,
                chosen_logprob: after.chosen,
                rejected_logprob_before: before.rejected,
                rejected_logprob: after.rejected,
                held_out: measurements(&folder)?,
            })
        })
    }

    /// Copies a finished model to where the other stages look for it.
    fn publish(&self, from: &Path, to: &Path) -> Result<(), Error> {
        atomic::create_folder(to, |scratch| {
            for entry in fs::read_dir(from).map_err(FileError::at("list", from))? {
                let path = entry.map_err(FileError::at("list", from))?.path();
                let name = path.file_name().unwrap_or_default();
                fs::copy(&path, scratch.join(name)).map_err(FileError::at("copy", &path))?;
            }
            Ok(())
        })
    }

    /// The settings' prompts answered by the base model and by this round's SFT and chat models.
    fn samples(&self, round: u32) -> Result<Vec<Sample>, Error> {
        let prompts = &self.settings.samples;
        let ask = |text: &String| examples::prompt(&self.tokenizer, &[Message::new(Role::User, text)]);
        let tokens = prompts.iter().map(ask).collect::<Result<Vec<_>, _>>()?;
        let answer = |model: (Llama, Params)| -> Result<Vec<String>, Error> {
            let limits = herd_infer::Settings::default();
            let generator = Generator::new(model.0, model.1, self.tokenizer.clone(), limits)?;
            let greedy = Sampling::greedy(self.settings.rejection.max_new_tokens);
            let answers = generator.generate_with(&tokens, 1, &greedy, &self.ctx.stop, |_| {})?;
            Ok(answers.into_iter().map(|mut samples| samples.remove(0).text).collect())
        };
        let base = answer((self.base.0.clone(), self.base.1.clone()))?;
        let sft = answer(weights::load(&self.folder(round, "sft").join("model"))?)?;
        let chat = answer(weights::load(&self.folder(round, "dpo").join("model"))?)?;
        let zip = prompts.iter().zip(base).zip(sft).zip(chat);
        Ok(zip
            .map(|(((prompt, base), sft), chat)| Sample { prompt: prompt.clone(), base, sft, chat })
            .collect())
    }
}

/// The lines of a sub-stage's metrics that were measured on held-out data, with those numbers alone.
fn measurements(folder: &Path) -> Result<Vec<Map<String, Value>>, Error> {
    let held_out = |line: Map<String, Value>| -> Option<Map<String, Value>> {
        let step = line.get("step")?.clone();
        let strip =
            |(key, value): (String, Value)| Some((key.split_once("/held_out_")?.1.to_string(), value));
        let numbers: Vec<(String, Value)> = line.into_iter().filter_map(strip).collect();
        let kept = std::iter::once(("step".to_string(), step)).chain(numbers.clone()).collect();
        (!numbers.is_empty()).then_some(kept)
    };
    Ok(metrics::read(folder)?.into_iter().filter_map(held_out).collect())
}

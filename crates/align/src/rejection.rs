//! Rejection sampling (SPEC POST-4): K answers of the policy to each prompt, the reward model picks the best.

use crate::Error;
use crate::examples::{self, Dialog, Group, Response};
use crate::records::{Instruction, Message};
use crate::reward::RewardModel;
use crate::settings::RejectionSettings;
use herd_infer::{FinishReason, Generator, Sampling};
use herd_run::Context;
use herd_run::Random;
use herd_run::atomic::{self, FileError};
use herd_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::Path;

/// Prompts that are sampled, scored and written together: what a killed run repeats at most.
const CHUNK: usize = 64;

/// One answer of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Its text.
    pub text: String,
    /// Its tokens, without the terminator.
    pub tokens: Vec<u32>,
    /// What the reward model gives it; absent if it is empty or did not end by itself, which is never picked.
    pub reward: Option<f32>,
}

/// A prompt, its samples and the choice: a line of `samples.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The dialog so far.
    pub prompt: Vec<Message>,
    /// The K samples.
    pub samples: Vec<Sampled>,
    /// Index of the sample with the highest reward, the first among equals.
    pub best: Option<usize>,
    /// What the reward model gives the answer in the data.
    pub reference_reward: f32,
    /// Whether the best sample joins the SFT data.
    pub kept: bool,
}

/// What rejection sampling did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplingSummary {
    /// Prompts sampled.
    pub prompts: usize,
    /// Samples of each, K.
    pub samples_per_prompt: usize,
    /// Share of samples that ended by themselves and are not empty.
    pub ended: f64,
    /// What picking at random gives: the mean reward of a prompt's finished samples, averaged over prompts.
    pub mean_reward: f64,
    /// Mean reward of the picked samples, over the same prompts.
    pub best_reward: f64,
    /// Mean reward of the data's own answers to the same prompts.
    pub reference_reward: f64,
    /// Picked samples that joined the SFT data.
    pub kept: usize,
}

/// The policy and the judge.
pub(crate) struct Sampler<'a> {
    pub generator: &'a Generator,
    pub reward: &'a RewardModel,
    pub tokenizer: &'a Tokenizer,
    pub settings: &'a RejectionSettings,
    pub max_tokens: usize,
    pub seed: u64,
}

/// Distinct prompts of the instructions with their answers, in a seeded order, at most `count`.
pub(crate) fn prompts(
    instructions: &[(usize, Instruction)],
    count: usize,
    seed: u64,
) -> Vec<(Vec<Message>, String)> {
    let mut order: Vec<usize> = (0..instructions.len()).collect();
    Random::new(seed, &[1]).shuffle(&mut order);
    let mut chosen: Vec<(Vec<Message>, String)> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for index in order {
        // Records were checked: the last message is the assistant's.
        let [prompt @ .., answer] = instructions[index].1.messages.as_slice() else { continue };
        if chosen.len() < count
            && seen.insert(prompt.iter().map(|m| (m.role as u8, &m.content)).collect::<Vec<_>>())
        {
            chosen.push((prompt.to_vec(), answer.content.clone()));
        }
    }
    chosen
}

impl Sampler<'_> {
    /// Samples for all prompts, writing `samples.jsonl` into `folder`; chunks that are on disk are not done again.
    pub fn run(
        &self,
        prompts: &[(Vec<Message>, String)],
        folder: &Path,
        ctx: &Context,
    ) -> Result<SamplingSummary, Error> {
        let parts = folder.join("parts");
        let task = ctx.progress.task("rejection", Some(prompts.len() as u64), "prompts");
        let mut choices = Vec::new();
        for (index, chunk) in prompts.chunks(CHUNK).enumerate() {
            ctx.stop.check()?;
            let part = parts.join(format!("{index:05}.jsonl"));
            if !part.exists() {
                write_lines(&part, &self.chunk(chunk, ctx)?)?;
            }
            choices.extend(read_lines(&part)?);
            task.add(chunk.len() as u64);
        }
        self.keep(&mut choices);
        write_lines(&folder.join("samples.jsonl"), &choices)?;
        std::fs::remove_dir_all(&parts).map_err(FileError::at("remove", &parts))?;
        Ok(self.summary(&choices))
    }

    fn chunk(&self, prompts: &[(Vec<Message>, String)], ctx: &Context) -> Result<Vec<Choice>, Error> {
        let tokens = prompts
            .iter()
            .map(|(messages, _)| examples::prompt(self.tokenizer, messages))
            .collect::<Result<Vec<_>, _>>()?;
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        let sampling = Sampling {
            temperature: self.settings.temperature,
            top_p: self.settings.top_p,
            seed: self.seed,
            max_tokens: self.settings.max_new_tokens.min(self.max_tokens.saturating_sub(longest).max(1)),
            ..Sampling::default()
        };
        let answers =
            self.generator.generate_with(&tokens, self.settings.samples, &sampling, &ctx.stop, |_| {})?;
        let eot = self.tokenizer.specials().eot;
        let mut choices = Vec::new();
        for (((messages, reference), prompt), answers) in prompts.iter().zip(tokens).zip(answers) {
            let mut group = examples::group(self.tokenizer, messages, [reference.as_str()])?;
            group.prompt = prompt;
            let ended: Vec<bool> = answers
                .iter()
                .map(|a| a.finish_reason == FinishReason::Stop && !a.text.trim().is_empty())
                .collect();
            for (answer, _) in answers.iter().zip(&ended).filter(|(_, ended)| **ended) {
                let tokens: Vec<u32> = answer.tokens.iter().copied().chain([eot]).collect();
                group.responses.push(Response { counted: vec![true; tokens.len()], tokens });
            }
            let in_order = |_: usize, g: &Group| (0..g.responses.len()).collect();
            let rewards = self.reward.rewards(&[&group], in_order).concat();
            let mut scored = rewards[1..].iter();
            let samples: Vec<Sampled> = answers
                .into_iter()
                .zip(ended)
                .map(|(answer, ended)| Sampled {
                    text: answer.text,
                    tokens: answer.tokens,
                    reward: if ended { scored.next().map(|&r| r as f32) } else { None },
                })
                .collect();
            let best = best(&samples);
            let reference_reward = rewards[0] as f32;
            choices.push(Choice { prompt: messages.clone(), samples, best, reference_reward, kept: false });
        }
        Ok(choices)
    }

    /// Marks the share of the prompts whose best samples have the highest rewards.
    fn keep(&self, choices: &mut [Choice]) {
        let reward = |c: &Choice| c.best.and_then(|b| c.samples[b].reward);
        let mut ranked: Vec<usize> = (0..choices.len()).filter(|&i| reward(&choices[i]).is_some()).collect();
        // A stable sort, so that equal rewards stay in the order of the prompts.
        ranked.sort_by(|&a, &b| {
            reward(&choices[b]).unwrap_or(0.0).total_cmp(&reward(&choices[a]).unwrap_or(0.0))
        });
        let count = (choices.len() as f64 * self.settings.keep).round() as usize;
        for index in ranked.into_iter().take(count) {
            choices[index].kept = true;
        }
    }

    fn summary(&self, choices: &[Choice]) -> SamplingSummary {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        let rewards =
            |c: &Choice| c.samples.iter().filter_map(|s| s.reward).map(f64::from).collect::<Vec<f64>>();
        // Each prompt counts once in both means, so that they differ by the choice alone.
        let random: Vec<f64> =
            choices.iter().filter(|c| c.best.is_some()).map(|c| mean(&rewards(c))).collect();
        let best: Vec<f64> =
            choices.iter().filter_map(|c| c.samples[c.best?].reward).map(f64::from).collect();
        let ended: usize = choices.iter().map(|c| rewards(c).len()).sum();
        let drawn: usize = choices.iter().map(|c| c.samples.len()).sum();
        SamplingSummary {
            prompts: choices.len(),
            samples_per_prompt: self.settings.samples,
            ended: ended as f64 / drawn.max(1) as f64,
            mean_reward: mean(&random),
            best_reward: mean(&best),
            reference_reward: mean(
                &choices.iter().map(|c| f64::from(c.reference_reward)).collect::<Vec<_>>(),
            ),
            kept: choices.iter().filter(|c| c.kept).count(),
        }
    }
}

fn best(samples: &[Sampled]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (index, sample) in samples.iter().enumerate() {
        if let Some(reward) = sample.reward
            && best.is_none_or(|(_, highest)| reward > highest)
        {
            best = Some((index, reward));
        }
    }
    best.map(|(index, _)| index)
}

/// The kept samples as dialogs for SFT, token for token as the policy wrote them.
pub(crate) fn dialogs(tokenizer: &Tokenizer, choices: &[Choice]) -> Result<Vec<Dialog>, Error> {
    let mut dialogs = Vec::new();
    for choice in choices.iter().filter(|c| c.kept) {
        let Some(best) = choice.best else { continue };
        let mut tokens = examples::prompt(tokenizer, &choice.prompt)?;
        let mut learned = vec![false; tokens.len()];
        tokens.extend_from_slice(&choice.samples[best].tokens);
        tokens.push(tokenizer.specials().eot);
        learned.resize(tokens.len(), true);
        dialogs.push(Dialog { tokens, learned, task: None });
    }
    Ok(dialogs)
}

fn write_lines(path: &Path, choices: &[Choice]) -> Result<(), Error> {
    atomic::create(path, |out| {
        for choice in choices {
            serde_json::to_writer(&mut *out, choice)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .map_err(FileError::at("write", path))?;
        }
        Ok(())
    })
}

/// Reads what [`write_lines`] wrote.
pub(crate) fn read_lines(path: &Path) -> Result<Vec<Choice>, Error> {
    let bytes = atomic::read(path)?;
    let lines = bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    let parse = |(index, line): (usize, &[u8])| {
        serde_json::from_slice(line).map_err(|e| Error::Record {
            file: path.to_path_buf(),
            line: index + 1,
            problem: format!("{e}; delete the file to sample again"),
        })
    };
    lines.enumerate().map(parse).collect()
}

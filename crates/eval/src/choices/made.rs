//! Questions made from held-out documents, free of contamination by construction: which of several passages truly
//! follows?

use super::Question;
use crate::Settings;
use crate::held_out::Shards;
use crate::likelihood::Request;
use herd_run::Random;
use herd_tokenizer::Tokenizer;

/// The false passages come from other documents of the same domain: what does the text say next?
const CONTINUATION: &str = "continuation";

/// The false passages come from other domains: is the language and kind of text recognised?
const KIND_OF_TEXT: &str = "kind_of_text";

/// Attempts to find a document for each wanted example before giving up on short ones.
const ATTEMPTS: usize = 20;

/// Up to `settings.choices.examples` questions of each of the two tasks. Fewer if the documents are too few or too
/// short; none if no document has a passage and a continuation.
pub fn from_held_out(settings: &Settings, tokenizer: &Tokenizer, shards: &Shards) -> Vec<Question> {
    [CONTINUATION, KIND_OF_TEXT]
        .iter()
        .flat_map(|task| Maker::new(settings, tokenizer, shards, task).all())
        .collect()
}

struct Maker<'a> {
    settings: &'a Settings,
    tokenizer: &'a Tokenizer,
    task: &'static str,
    random: Random,
    /// Domain and tokens of every document that holds at least one continuation.
    documents: Vec<(usize, Vec<u32>)>,
}

impl<'a> Maker<'a> {
    fn new(settings: &'a Settings, tokenizer: &'a Tokenizer, shards: &Shards, task: &'static str) -> Self {
        let mut documents = Vec::new();
        for (domain, shard) in shards.held_out.iter().enumerate() {
            for number in 0..shard.documents() {
                let mut ids = shard.document(number).ids;
                ids.retain(|&id| !tokenizer.is_special(id));
                if ids.len() >= settings.choices.continuation {
                    documents.push((domain, ids));
                }
            }
        }
        Self { settings, tokenizer, task, random: Random::new(settings.seed, &[]).named(task), documents }
    }

    fn all(&self) -> Vec<Question> {
        let wanted = self.settings.choices.examples;
        (0..(wanted * ATTEMPTS) as u64).filter_map(|attempt| self.make(attempt)).take(wanted).collect()
    }

    /// One question, or none if the drawn document is too short or there are too few others.
    fn make(&self, attempt: u64) -> Option<Question> {
        let limits = &self.settings.choices;
        let random = self.random.stream(attempt);
        let source = random.pick(0, self.documents.len());
        let (domain, ids) = self.documents.get(source)?;
        let places = (ids.len() + 1).checked_sub(limits.passage + limits.continuation).filter(|&n| n > 0)?;
        let start = random.pick(1, places);
        let (passage, rest) = ids[start..].split_at(limits.passage);
        let truth = &rest[..limits.continuation];

        let others: Vec<usize> = (0..self.documents.len())
            .filter(|&other| {
                other != source && (self.documents[other].0 == *domain) == (self.task == CONTINUATION)
            })
            .collect();
        let mut passages = vec![truth.to_vec()];
        for pick in random.stream(2).order(others.len()) {
            if passages.len() == limits.choices {
                break;
            }
            let ids = &self.documents[others[pick]].1;
            let at = random.stream(3).pick(pick as u64, ids.len() - limits.continuation + 1);
            let passage = ids[at..at + limits.continuation].to_vec();
            if !passages.contains(&passage) {
                passages.push(passage);
            }
        }
        if passages.len() < limits.choices {
            return None;
        }
        // The true passage goes to a random place, so that a tie does not favour it.
        let answer = random.pick(4, limits.choices);
        passages.swap(0, answer);
        let prefix: Vec<u32> =
            std::iter::once(self.tokenizer.specials().bos).chain(passage.iter().copied()).collect();
        Some(Question {
            task: self.task.to_string(),
            id: attempt.to_string(),
            context: self.tokenizer.decode(passage),
            choices: passages.iter().map(|ids| self.tokenizer.decode(ids)).collect(),
            answer,
            request: Request { prefix, continuations: passages },
        })
    }
}

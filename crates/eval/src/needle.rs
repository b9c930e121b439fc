//! Needle in a haystack over a grid of lengths and depths (SPEC TRAIN-2, EVAL-1): a fact hidden in held-out text and
//! asked for at its end. The sentences are those of the long-context stages of training; the cases are new.

use crate::held_out::Shards;
use crate::interval::Proportion;
use crate::likelihood::Scorer;
use crate::{Error, Settings};
use herd_run::Context;
use herd_run::Random;
use herd_tokenizer::Tokenizer;
use herd_train::needle::{self, Sentences};
use serde::{Deserialize, Serialize};

/// Keeps the cases apart from those that training's gates measure with the same seed.
const STREAM: u64 = 0x6576_616c;

/// One case: a line of `needle.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Tokens of text, question and answer.
    pub length: usize,
    /// 0 at the beginning, 1 just before the question.
    pub depth: f64,
    /// The question with a little before it.
    pub question: String,
    /// The true answer.
    pub answer: String,
    /// Greedy decoding gives the answer, token by token.
    pub exact: bool,
    /// Candidates (of nine others) that the model holds for likelier.
    pub rank: usize,
}

/// Recall at one length and depth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Length in tokens.
    pub length: usize,
    /// Depth from 0 to 1.
    pub depth: f64,
    /// Share of cases whose greedy answer is right.
    pub recall: Proportion,
    /// Share of cases whose answer is the likeliest of ten; chance is 0.1.
    pub ranked: Proportion,
}

/// The grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Needle {
    /// By length, then depth.
    pub cells: Vec<Cell>,
    /// Greedy recall over all cells.
    pub total: Proportion,
    /// Likeliest of ten over all cells.
    pub ranked: Proportion,
    /// Lengths of the settings that exceed the model's longest context and were left out.
    pub left_out: Vec<usize>,
}

/// Measures the grid; `None` if the settings leave it out or there is no held-out text to hide in.
///
/// # Errors
/// A stop was asked for.
pub fn measure(
    settings: &Settings,
    scorer: &Scorer,
    tokenizer: &Tokenizer,
    shards: &Shards,
    ctx: &Context,
) -> Result<Option<(Needle, Vec<CaseRecord>)>, Error> {
    let grid = &settings.needle;
    let hay = Hay::new(shards, tokenizer);
    if grid.cases == 0 || grid.lengths.is_empty() || hay.documents.is_empty() {
        return Ok(None);
    }
    let context = scorer.llama.config.max_position_embeddings;
    let (lengths, left_out): (Vec<usize>, Vec<usize>) =
        grid.lengths.iter().partition(|&&length| length <= context);
    let sentences = Sentences::new(tokenizer, grid.kind);
    let total = (lengths.len() * grid.depths * grid.cases) as u64;
    let task = ctx.progress.task("needle", Some(total), "cases");
    let mut records = Vec::new();
    let mut cells = Vec::new();
    for &length in &lengths {
        let seed = settings.seed ^ STREAM;
        let cases =
            sentences.cases(length, grid.depths, grid.cases, seed, |random| hay.filler(length, random));
        for of_depth in cases.chunks(grid.cases) {
            let found = needle::recall(scorer.llama, scorer.params, of_depth, ctx)?;
            task.add(found.len() as u64);
            let count = |right: usize| Proportion::new(right, found.len());
            cells.push(Cell {
                length,
                depth: of_depth[0].depth,
                recall: count(found.iter().filter(|f| f.exact).count()),
                ranked: count(found.iter().filter(|f| f.rank == 0).count()),
            });
            records.extend(of_depth.iter().zip(found).map(|(case, found)| CaseRecord {
                length: case.length,
                depth: case.depth,
                question: tokenizer.decode(&case.prompt[case.prompt.len().saturating_sub(24)..]),
                answer: tokenizer.decode(&case.candidates[0]),
                exact: found.exact,
                rank: found.rank,
            }));
        }
    }
    let over_all = |hit: &dyn Fn(&CaseRecord) -> bool| {
        Proportion::new(records.iter().filter(|r| hit(r)).count(), records.len())
    };
    let (total, ranked) = (over_all(&|r| r.exact), over_all(&|r| r.rank == 0));
    Ok(Some((Needle { cells, total, ranked, left_out }, records)))
}

/// Held-out text to hide needles in.
struct Hay<'s> {
    shards: &'s Shards,
    /// Domain and number of every document that has text.
    documents: Vec<(usize, usize)>,
    tokenizer: &'s Tokenizer,
}

impl<'s> Hay<'s> {
    fn new(shards: &'s Shards, tokenizer: &'s Tokenizer) -> Self {
        let documents = shards
            .held_out
            .iter()
            .enumerate()
            .flat_map(|(domain, shard)| (0..shard.documents()).map(move |number| (domain, number)))
            .filter(|&(domain, number)| shards.held_out[domain].document_bytes(number) > 0)
            .collect();
        Self { shards, documents, tokenizer }
    }

    /// `length` tokens of running text from documents one after the other, from a place drawn at random.
    fn filler(&self, length: usize, random: Random) -> Vec<u32> {
        let mut text = Vec::with_capacity(length);
        let first = random.below(1_000_003, self.documents.len() as u64) as usize;
        for i in 0..self.documents.len() {
            let (domain, number) = self.documents[(first + i) % self.documents.len()];
            let ids = self.shards.held_out[domain].document(number).ids;
            text.extend(ids.into_iter().filter(|&id| !self.tokenizer.is_special(id)));
            if text.len() >= length {
                break;
            }
        }
        text.truncate(length);
        text
    }
}

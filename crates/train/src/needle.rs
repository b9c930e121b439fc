//! Needle in a haystack (SPEC TRAIN-2): facts such as `The magic number of Lisbon is 4821.` hidden in running text,
//! and asked for again at its end. The same sentences make training documents for the long-context stages and the
//! cases by which a stage's gate (and the evaluation) measures recall.

use herd_model::{Batch, Llama};
use herd_run::Random;
use herd_run::{Context, Interrupted};
use herd_tensor::{Params, Segment, Segments, Tape};
use herd_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Cities that facts are about.
const CITIES: [&str; 32] = [
    "Accra", "Ankara", "Athens", "Bergen", "Bogota", "Boston", "Cairo", "Dakar", "Delhi", "Dublin", "Geneva",
    "Hanoi", "Havana", "Jakarta", "Kyoto", "Lagos", "Lima", "Lisbon", "London", "Madrid", "Manila",
    "Nairobi", "Naples", "Oslo", "Paris", "Porto", "Prague", "Quito", "Riga", "Seoul", "Sydney", "Vienna",
];

/// Answers that a case's true one is ranked among.
pub const CANDIDATES: usize = 10;

/// A training document holds about one statement for so many of its tokens, and each of its facts three times at
/// least: small models learn to look up only from many look-ups.
const TOKENS_PER_STATEMENT: u64 = 64;

/// The task's sentences as tokens of one tokenizer.
#[derive(Clone)]
pub struct Sentences {
    tokenizer: Tokenizer,
    /// `\nThe magic number of CITY is ` per city.
    questions: Vec<Vec<u32>>,
    /// What follows a number.
    tail: Vec<u32>,
    begin: u32,
    end: u32,
}

/// One question whose answer stands somewhere in the text before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Text with the fact, and the question at its end: `length` tokens together with the answer.
    pub prompt: Vec<u32>,
    /// [`CANDIDATES`] answers; the first is the true one.
    pub candidates: Vec<Vec<u32>>,
    /// Tokens of prompt and answer.
    pub length: usize,
    /// Where the fact stands: 0 at the beginning, 1 just before the question.
    pub depth: f64,
}

/// What the model made of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Greedy continuation gives the answer, token by token.
    pub exact: bool,
    /// How many of the other candidates the model holds for likelier than the true answer.
    pub rank: usize,
}

/// Share of cases found, by both measures.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Recall {
    /// Cases.
    pub cases: usize,
    /// Share whose greedy continuation is the answer.
    pub exact: f64,
    /// Share whose answer is the likeliest of ten candidates (by chance 0.1).
    pub ranked: f64,
}

impl Recall {
    /// Counts a list of outcomes.
    pub fn of(found: &[Found]) -> Self {
        let share = |hits: usize| hits as f64 / found.len().max(1) as f64;
        Self {
            cases: found.len(),
            exact: share(found.iter().filter(|f| f.exact).count()),
            ranked: share(found.iter().filter(|f| f.rank == 0).count()),
        }
    }
}

impl Sentences {
    /// The sentences in a tokenizer's tokens.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        // The question ends in the space before the number, where the split rule of Llama 3 cuts; question and
        // number are therefore the tokens that the whole sentence has.
        let question = |city: &&str| tokenizer.encode(&format!("\nThe magic number of {city} is "));
        Self {
            questions: CITIES.iter().map(question).collect(),
            tail: tokenizer.encode(".\n"),
            begin: tokenizer.specials().bos,
            end: tokenizer.specials().end_of_text,
            tokenizer: tokenizer.clone(),
        }
    }

    /// A number of four digits in tokens.
    fn number(&self, random: Random, counter: u64) -> Vec<u32> {
        self.tokenizer.encode(&(1000 + random.below(counter, 9000)).to_string())
    }

    /// A training document of exactly `length` tokens, its two end marks included: one to four facts, each stated at
    /// random places of the filler and once more at the end, so that every statement but a fact's first can be predicted
    /// from further up.
    pub fn training_document(&self, filler: &[u32], length: usize, random: Random) -> Vec<u32> {
        // One fact is enough to learn copying; several teach to tell the cities apart.
        let facts = [1, 1, 1, 1, 2, 2, 3, 4][random.below(0, 8) as usize];
        let first_city = random.below(1, CITIES.len() as u64);
        let statement = |fact: u64| {
            let city = ((first_city + fact * 5) % CITIES.len() as u64) as usize;
            [&self.questions[city][..], &self.number(random, 10 + fact), &self.tail].concat()
        };
        let statements: Vec<Vec<u32>> = (0..facts).map(statement).collect();
        let closing: usize = statements.iter().map(Vec::len).sum();
        let room = length.saturating_sub(2 + closing);
        // Statements inside the text, as far as they fit, each at a point of the filler.
        let mut inside: Vec<(u64, usize)> = Vec::new();
        let mut used = 0;
        for i in 0..(2 * facts).max(length as u64 / TOKENS_PER_STATEMENT) {
            let statement = (i % facts) as usize;
            if used + statements[statement].len() > room {
                break;
            }
            used += statements[statement].len();
            inside.push((random.at(100 + i), statement));
        }
        let filler_room = room - used;
        let mut points: Vec<(usize, usize)> =
            inside.into_iter().map(|(draw, statement)| (scale(draw, filler_room), statement)).collect();
        points.sort();
        let mut out = vec![self.begin];
        let mut at = 0;
        let mut running = filler.iter().copied().cycle();
        for (point, statement) in points {
            out.extend(running.by_ref().take(point - at));
            at = point;
            out.extend_from_slice(&statements[statement]);
        }
        out.extend(running.take(filler_room - at));
        statements.iter().rev().for_each(|statement| out.extend_from_slice(statement));
        out.push(self.end);
        // Only where the closing statements alone are longer than the document, or the filler is empty.
        out.truncate(length);
        out.resize(length, self.end);
        out
    }

    /// One case of `length` tokens whose fact stands at `depth` (0 to 1) of the filler.
    pub fn case(&self, filler: &[u32], length: usize, depth: f64, random: Random) -> Case {
        let city = random.below(0, CITIES.len() as u64) as usize;
        let mut candidates: Vec<Vec<u32>> = Vec::with_capacity(CANDIDATES);
        let mut counter = 1;
        while candidates.len() < CANDIDATES {
            let number = self.number(random, counter);
            counter += 1;
            if !candidates.contains(&number) {
                candidates.push(number);
            }
        }
        let statement = [&self.questions[city][..], &candidates[0], &self.tail].concat();
        let fixed = 1 + statement.len() + self.questions[city].len() + candidates[0].len();
        let room = length.saturating_sub(fixed);
        let before = (depth.clamp(0.0, 1.0) * room as f64).round() as usize;
        let mut running = filler.iter().copied().cycle();
        let mut prompt = vec![self.begin];
        prompt.extend(running.by_ref().take(before));
        prompt.extend(statement);
        prompt.extend(running.take(room - before));
        prompt.extend_from_slice(&self.questions[city]);
        let length = prompt.len() + candidates[0].len();
        Case { prompt, candidates, length, depth }
    }

    /// `samples` cases at each of `depths` evenly spaced depths, at one length. `filler(i)` gives the running text of
    /// case `i`.
    pub fn cases(
        &self,
        length: usize,
        depths: usize,
        samples: usize,
        seed: u64,
        mut filler: impl FnMut(Random) -> Vec<u32>,
    ) -> Vec<Case> {
        (0..depths * samples)
            .map(|i| {
                let random = Random::new(seed, &[3, length as u64, i as u64]);
                let depth = match depths {
                    0 | 1 => 0.5,
                    _ => (i / samples) as f64 / (depths - 1) as f64,
                };
                self.case(&filler(random), length, depth, random)
            })
            .collect()
    }
}

/// Maps a uniform draw to `0..=limit`.
fn scale(draw: u64, limit: usize) -> usize {
    ((draw as u128 * (limit as u128 + 1)) >> 64) as usize
}

/// Runs every case through the model.
pub fn recall(
    llama: &Llama,
    params: &Params,
    cases: &[Case],
    ctx: &Context,
) -> Result<Vec<Found>, Interrupted> {
    cases
        .iter()
        .map(|case| {
            ctx.stop.check()?;
            Ok(find(llama, params, case))
        })
        .collect()
}

/// One pass over the prompt, with every candidate behind it as a branch that sees the prompt and itself.
fn find(llama: &Llama, params: &Params, case: &Case) -> Found {
    let prompt = case.prompt.len();
    let mut tokens = case.prompt.clone();
    let mut positions: Vec<u32> = (0..prompt as u32).collect();
    let mut segments = vec![Segment { rows: 0..prompt, prefix: 0..0 }];
    let (mut rows, mut targets) = (Vec::new(), Vec::new());
    let mut spans: Vec<Range<usize>> = Vec::new();
    for answer in &case.candidates {
        let inputs = answer.len().saturating_sub(1);
        let start = tokens.len();
        spans.push(targets.len()..targets.len() + answer.len());
        rows.extend(std::iter::once(prompt - 1).chain(start..start + inputs).take(answer.len()));
        targets.extend_from_slice(answer);
        if inputs > 0 {
            tokens.extend_from_slice(&answer[..inputs]);
            positions.extend(prompt as u32..(prompt + inputs) as u32);
            segments.push(Segment { rows: start..start + inputs, prefix: 0..prompt });
        }
    }
    let batch = Batch { tokens, positions, segments: Arc::new(Segments::new(segments)) };
    let mut tape = Tape::no_grad(params);
    let hidden = llama.hidden(&mut tape, &batch);
    let hidden = tape.select_rows(&hidden, &rows);
    let logits = tape.linear(&hidden, llama.head());
    let logits = tape.value(&logits).as_slice();
    let vocabulary = llama.config.vocab_size;
    let row = |i: usize| &logits[i * vocabulary..(i + 1) * vocabulary];
    let logprob =
        |span: &Range<usize>| -> f64 { span.clone().map(|i| log_softmax(row(i), targets[i] as usize)).sum() };
    let truth = logprob(&spans[0]);
    Found {
        exact: spans[0].clone().all(|i| argmax(row(i)) == targets[i] as usize),
        rank: spans[1..].iter().filter(|span| logprob(span) >= truth).count(),
    }
}

fn log_softmax(logits: &[f32], target: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - max).exp()).sum();
    f64::from(logits[target] - max) - sum.ln()
}

fn argmax(values: &[f32]) -> usize {
    values.iter().enumerate().fold(0, |best, (i, &x)| if x > values[best] { i } else { best })
}

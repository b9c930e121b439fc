//! Needle in a haystack (SPEC TRAIN-2): facts such as `The magic number of Lisbon is 4821.` are hidden in running text,
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

/// Tokens of a training document for each statement in it: from hardly any filler to much.
const TOKENS_PER_STATEMENT: [usize; 4] = [16, 24, 48, 96];

/// Shortest passage that a training document repeats, tokens.
const SHORTEST_PASSAGE: usize = 8;

/// What a needle says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NeedleKind {
    /// `The magic number of CITY is NNNN.` A document may hold several; finding one takes two hops, to the city and from
    /// there to its number, which a model of a few million parameters does not learn in a few million tokens.
    #[default]
    Number,
    /// `The secret city of this text is CITY.` One in a document; finding it takes one hop.
    City,
}

/// The task's sentences as tokens of one tokenizer.
#[derive(Clone)]
pub struct Sentences {
    kind: NeedleKind,
    tokenizer: Tokenizer,
    /// Everything before the answer: one question for each city, or the only one.
    questions: Vec<Vec<u32>>,
    /// What follows an answer.
    tail: Vec<u32>,
    begin: u32,
    end: u32,
}

/// One question whose answer stands somewhere in the text before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// Text with the fact, and the question at its end: `length` tokens together with the longest candidate.
    pub prompt: Vec<u32>,
    /// [`CANDIDATES`] answers; the first is the true one.
    pub candidates: Vec<Vec<u32>>,
    /// Tokens of the prompt and the longest candidate.
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
    /// The sentences of one kind in a tokenizer's tokens.
    pub fn new(tokenizer: &Tokenizer, kind: NeedleKind) -> Self {
        // A question ends where the split rule of Llama 3 cuts: before a number's digits, or before the space of a word.
        // So question and answer are the tokens that the whole sentence has.
        let questions = match kind {
            NeedleKind::Number => CITIES.map(|city| format!("\nThe magic number of {city} is ")).to_vec(),
            NeedleKind::City => vec!["\nThe secret city of this text is".to_string()],
        };
        Self {
            kind,
            questions: questions.iter().map(|question| tokenizer.encode(question)).collect(),
            tail: tokenizer.encode(".\n"),
            begin: tokenizer.specials().bos,
            end: tokenizer.specials().end_of_text,
            tokenizer: tokenizer.clone(),
        }
    }

    /// An answer in tokens: a number of four digits, or a city.
    fn answer(&self, random: Random, counter: u64) -> Vec<u32> {
        self.tokenizer.encode(&match self.kind {
            NeedleKind::Number => (1000 + random.below(counter, 9000)).to_string(),
            NeedleKind::City => format!(" {}", CITIES[random.pick(counter, CITIES.len())]),
        })
    }

    /// A training document of exactly `length` tokens, its two end marks included. Half of them hide facts; the others
    /// repeat a passage of the filler, which has a model look up every token and so teaches it looking up in far fewer
    /// documents than facts alone do.
    pub fn training_document(&self, filler: &[u32], length: usize, random: Random) -> Vec<u32> {
        let mut out = match random.below(2, 2) {
            0 => self.repeated_passage(filler, length, random),
            _ => self.hidden_facts(filler, length, random),
        };
        // Only where what must be said is longer than the document, or the filler is empty.
        out.truncate(length);
        out.resize(length, self.end);
        out
    }

    /// One passage, again and again.
    fn repeated_passage(&self, filler: &[u32], length: usize, random: Random) -> Vec<u32> {
        let room = length.saturating_sub(2);
        let longest = (room / 2).min(filler.len()).max(SHORTEST_PASSAGE);
        let passage = SHORTEST_PASSAGE + random.pick(3, longest - SHORTEST_PASSAGE + 1);
        let repeated = filler.iter().take(passage).cycle().take(room).copied();
        std::iter::once(self.begin).chain(repeated).chain([self.end]).collect()
    }

    /// One to four facts, each stated at random places of the filler and once more at the end, so that every statement
    /// but a fact's first can be predicted from further up.
    fn hidden_facts(&self, filler: &[u32], length: usize, random: Random) -> Vec<u32> {
        // One fact is enough to learn copying; several teach to tell the cities apart.
        let facts = match self.kind {
            NeedleKind::Number => [1, 1, 1, 1, 2, 2, 3, 4][random.pick(0, 8)],
            NeedleKind::City => 1,
        };
        let first = random.pick(1, self.questions.len());
        let statement = |fact: u64| {
            let question = &self.questions[(first + fact as usize * 5) % self.questions.len()];
            [&question[..], &self.answer(random, 10 + fact), &self.tail].concat()
        };
        let statements: Vec<Vec<u32>> = (0..facts).map(statement).collect();
        let closing: usize = statements.iter().map(Vec::len).sum();
        let room = length.saturating_sub(2 + closing);
        // Statements inside the text, as far as they fit, each at a point of the filler.
        let mut inside: Vec<(u64, usize)> = Vec::new();
        let mut used = 0;
        let density = TOKENS_PER_STATEMENT[random.pick(4, TOKENS_PER_STATEMENT.len())];
        for i in 0..(2 * facts).max((length / density) as u64) {
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
        out
    }

    /// One case of `length` tokens whose fact stands at `depth` (0 to 1) of the filler.
    pub fn case(&self, filler: &[u32], length: usize, depth: f64, random: Random) -> Case {
        let question = &self.questions[random.pick(0, self.questions.len())];
        let mut candidates: Vec<Vec<u32>> = Vec::with_capacity(CANDIDATES);
        let mut counter = 1;
        while candidates.len() < CANDIDATES {
            let answer = self.answer(random, counter);
            counter += 1;
            if !candidates.contains(&answer) {
                candidates.push(answer);
            }
        }
        let statement = [&question[..], &candidates[0], &self.tail].concat();
        // Room for the longest candidate: all are tried behind the prompt, and none may pass the context's end.
        let longest = candidates.iter().map(Vec::len).max().unwrap_or(0);
        let fixed = 1 + statement.len() + question.len() + longest;
        let room = length.saturating_sub(fixed);
        let before = (depth.clamp(0.0, 1.0) * room as f64).round() as usize;
        let mut running = filler.iter().copied().cycle();
        let mut prompt = vec![self.begin];
        prompt.extend(running.by_ref().take(before));
        prompt.extend(statement);
        prompt.extend(running.take(room - before));
        prompt.extend_from_slice(question);
        let length = prompt.len() + longest;
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
    let logits = tape.value(&logits).to_host();
    let logits = logits.as_slice();
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

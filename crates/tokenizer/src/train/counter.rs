//! Counting pieces on all threads, within a limit of memory.

use super::counts::Counts;
use super::learn::Words;
use super::runs::Runs;
use crate::Error;
use crate::split::{CLASSES, ENDS, Workspace, llama3_piece_ends};
use herd_run::SettingError;
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// Bytes that a thread's own table may take before it is added to the table of all.
const OWN: u64 = 64 << 20;
/// Bytes of text that one thread counts at a time, about.
const PART: usize = 1 << 18;

/// Bytes that learning takes for each token that the distinct pieces consist of at the beginning, and for each piece. The
/// first covers the token, two places where it is found again, and its share of pairs and of the queue of pairs.
const TOKEN_BYTES: u64 = 24;
const WORD_BYTES: u64 = 32;

/// How much memory there is.
pub(super) struct Limit {
    /// For the table of all pieces.
    pub(super) table: u64,
    /// For the tables of all threads.
    pub(super) own: u64,
    /// For learning the merges.
    pub(super) learning: u64,
    /// Where runs are written.
    pub(super) scratch: PathBuf,
}

impl Limit {
    /// Parts of what there is. A table grows by a quarter at a time, and a quarter of all is for the text.
    pub(super) fn of(memory: u64, scratch: &Path) -> Self {
        Self { table: memory * 3 / 8, own: memory / 4, learning: memory, scratch: scratch.to_path_buf() }
    }
}

/// Counts of the pieces of all texts so far.
pub(super) struct Counter {
    limit: Option<Limit>,
    state: Mutex<State>,
}

struct State {
    counts: Counts,
    runs: Option<Runs>,
}

impl State {
    /// Makes one run of the table and all runs, if there are any.
    fn settle(&mut self) -> Result<(), Error> {
        if let Some(runs) = self.runs.as_mut().filter(|runs| !runs.is_empty()) {
            if self.counts.len() > 0 {
                runs.spill(&mut self.counts)?;
            }
            self.counts = Counts::default();
            runs.merge_all()?;
        }
        Ok(())
    }
}

impl Counter {
    pub(super) fn new(limit: Option<Limit>) -> Self {
        let runs = limit.as_ref().map(|limit| Runs::new(&limit.scratch));
        Self { limit, state: Mutex::new(State { counts: Counts::default(), runs }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that another thread panicked, and then the panic is what is reported.
        self.state.lock().unwrap_or_else(|error| error.into_inner())
    }

    /// Distinct pieces.
    pub(super) fn distinct(&self) -> Result<usize, Error> {
        let mut state = self.state();
        state.settle()?;
        Ok(state.counts.len() + state.runs.as_ref().map_or(0, Runs::pieces))
    }

    /// Runs written so far.
    pub(super) fn spills(&self) -> usize {
        self.state().runs.as_ref().map_or(0, Runs::written)
    }

    /// Counts the pieces of some texts.
    pub(super) fn count<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<(), Error> {
        let counted =
            texts.par_iter().try_fold(Counts::default, |own, text| self.count_one(own, text.as_ref()));
        counted.try_for_each(|own| self.pour(&own?))
    }

    /// The same of the lines of a text, each a text by itself.
    pub(super) fn count_lines(&self, text: &str) -> Result<(), Error> {
        let parts = parts(text);
        let count = |own, part: &&str| {
            part.split_inclusive('\n').try_fold(own, |own, line| self.count_one(own, line))
        };
        parts.par_iter().try_fold(Counts::default, count).try_for_each(|own| self.pour(&own?))
    }

    /// Adds the pieces of a text to a thread's own counts.
    fn count_one(&self, mut own: Counts, text: &str) -> Result<Counts, Error> {
        let threads = rayon::current_num_threads() as u64;
        let most = self.limit.as_ref().map_or(OWN, |limit| (limit.own / threads).min(OWN));
        let (classes, text) = (&*CLASSES, text.as_bytes());
        let (mut ends, mut workspace) = ([0; ENDS], Workspace::NEW);
        let mut start = 0;
        while start < text.len() {
            let found = llama3_piece_ends(classes, text, start, &mut ends, &mut workspace);
            for &end in &ends[..found] {
                own.add(&text[start..end], 1);
                start = end;
            }
            if own.memory() > most {
                self.pour(&own)?;
                own.clear();
            }
        }
        Ok(own)
    }

    /// Adds a thread's own counts to those of all.
    fn pour(&self, own: &Counts) -> Result<(), Error> {
        let mut state = self.state();
        let State { counts, runs } = &mut *state;
        for (piece, count) in own.iter() {
            counts.add(piece, count);
            if let (Some(limit), Some(runs)) = (&self.limit, runs.as_mut())
                && counts.memory() > limit.table
            {
                runs.spill(counts)?;
            }
        }
        Ok(())
    }

    /// The pieces of more than one byte, as tokens that `split` appends.
    ///
    /// # Errors
    /// They do not fit into the memory allowed.
    pub(super) fn words(self, mut split: impl FnMut(&[u8], &mut Vec<u32>)) -> Result<Words, Error> {
        let mut state = self.state.into_inner().unwrap_or_else(|error| error.into_inner());
        state.settle()?;
        let State { mut counts, mut runs } = state;
        let learning = self.limit.map_or(u64::MAX, |limit| limit.learning);
        let totals = |totals: &mut (usize, usize), piece: &[u8]| {
            if piece.len() > 1 {
                *totals = (totals.0 + 1, totals.1 + piece.len());
            }
        };
        let mut sizes = (0, 0);
        if let Some(runs) = runs.as_mut().filter(|runs| !runs.is_empty()) {
            runs.for_each(|piece, _| {
                totals(&mut sizes, piece);
                Ok(())
            })?;
        } else {
            counts.iter().for_each(|(piece, _)| totals(&mut sizes, piece));
        }
        let (pieces, bytes) = sizes;
        let needed = |table: u64| pieces as u64 * WORD_BYTES + bytes as u64 * TOKEN_BYTES + table;
        if needed(0) > learning {
            let problem = format!(
                "learning from {pieces} distinct pieces of {bytes} bytes takes about {} MB, and {} MB are allowed; allow \
                 more, or train on a part of the text",
                needed(0).div_ceil(1_000_000),
                learning / 1_000_000,
            );
            return Err(SettingError::new("memory", problem).into());
        }
        let mut words = Words::with_capacity(pieces, bytes);
        let mut push = |piece: &[u8], count: u64| {
            if piece.len() > 1 {
                words.push(count, |ids| split(piece, ids));
            }
        };
        if let Some(runs) = runs.as_mut()
            && (!runs.is_empty() || needed(counts.memory()) > learning)
        {
            // The table and the words do not fit beside each other.
            if counts.len() > 0 {
                runs.spill(&mut counts)?;
            }
            drop(std::mem::take(&mut counts));
            runs.for_each(|piece, count| {
                push(piece, count);
                Ok(())
            })?;
        } else {
            counts.iter().for_each(|(piece, count)| push(piece, count));
        }
        Ok(words)
    }
}

/// A text in parts of about [`PART`] bytes that end with a line.
fn parts(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while text.len() > PART
        && let Some(at) = text.as_bytes()[PART..].iter().position(|&byte| byte == b'\n')
    {
        let (part, rest) = text.split_at(PART + at + 1);
        parts.push(part);
        text = rest;
    }
    parts.push(text);
    parts
}

#[cfg(test)]
mod tests {
    use super::super::{Settings, Trainer};
    use super::*;
    use crate::Tokenizer;
    use herd_run::Context;
    use std::collections::BTreeSet;

    const CORPUS: &str = include_str!("../../tests/golden/corpus.txt");

    fn trained(limit: Option<Limit>) -> (Result<Tokenizer, Error>, usize) {
        let settings = Settings { vocab_size: 3000, ..Settings::default() };
        let mut trainer = Trainer { settings, counter: Counter::new(limit) };
        for _ in 0..3 {
            for part in CORPUS.split_inclusive('\n').collect::<Vec<_>>().chunks(50) {
                trainer.feed(part).unwrap();
            }
        }
        let spills = trainer.spills();
        let distinct: BTreeSet<&str> = CORPUS.split_inclusive('\n').flat_map(crate::split::pieces).collect();
        assert_eq!(trainer.distinct_pieces().unwrap(), distinct.len());
        (trainer.finish(&Context::quiet()), spills)
    }

    fn vocabulary(tokenizer: Result<Tokenizer, Error>) -> Result<Vec<Vec<u8>>, Error> {
        let tokenizer = tokenizer?;
        Ok((0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_bytes(id).to_vec()).collect())
    }

    #[test]
    fn counts_that_do_not_fit_go_to_disk_and_change_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let (expected, spills) = trained(None);
        assert_eq!(spills, 0);
        let expected = vocabulary(expected).unwrap();
        for (table, own) in [(40_000, 0), (40_000, 80_000), (u64::MAX, 0), (u64::MAX, u64::MAX)] {
            let limit = Limit { table, own, learning: u64::MAX, scratch: scratch.path().into() };
            let (tokenizer, spills) = trained(Some(limit));
            assert_eq!(spills > 2, table < u64::MAX, "{spills}");
            assert_eq!(vocabulary(tokenizer).unwrap(), expected);
            assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        }
        // Too little, enough to learn but not beside the table, enough for both.
        let limits = (1..60).map(|i| i * 40_000);
        let outcomes = limits.map(|learning| {
            let limit = Limit { table: u64::MAX, own: 0, learning, scratch: scratch.path().into() };
            vocabulary(trained(Some(limit)).0).map(|learned| assert_eq!(learned, expected)).is_ok()
        });
        let outcomes = outcomes.collect::<Vec<_>>();
        assert!(outcomes.is_sorted() && !outcomes[0] && outcomes[58]);
    }

    #[test]
    fn lines_are_texts_by_themselves() {
        let text = CORPUS.repeat(40);
        let (together, apart) = (Counter::new(None), Counter::new(None));
        together.count_lines(&text).unwrap();
        apart.count(&text.split_inclusive('\n').collect::<Vec<_>>()).unwrap();
        let sorted = |counter: Counter| {
            let mut counts = counter.state.into_inner().unwrap().counts;
            counts.sort();
            counts.iter().map(|(piece, count)| (piece.to_vec(), count)).collect::<Vec<_>>()
        };
        assert_eq!(sorted(together), sorted(apart));
        assert!(parts(&text).len() > 3 && parts(&text).concat() == text);
    }

    #[test]
    fn pieces_that_cannot_be_learned_from_are_refused_before() {
        let scratch = tempfile::tempdir().unwrap();
        for table in [40_000, u64::MAX] {
            let limit = Limit { table, own: 0, learning: 10_000, scratch: scratch.path().into() };
            let mut trainer = Trainer { settings: Settings::default(), counter: Counter::new(Some(limit)) };
            trainer.feed(&CORPUS.lines().take(400).collect::<Vec<_>>()).unwrap();
            let error = trainer.finish(&Context::quiet()).err().unwrap().to_string();
            assert!(error.contains("memory") && error.contains("distinct pieces"), "{error}");
        }
        let error = Trainer::bounded(Settings::default(), 1000, scratch.path()).err().unwrap().to_string();
        assert!(error.contains("at least"), "{error}");
    }
}

//! Who computes in the next step, and with which pages.
//!
//! Pages are taken when they are needed. When none is left, the youngest answer gives up all of its own (preemption,
//! arXiv 2309.06180) and goes on, by computing again what is not found in the cache, as soon as its text has room.
//! So the oldest answer is never thrown out and always moves. What a paused answer has drawn stays drawn; rows have
//! the same bits whenever they are computed, so nobody can tell from its text that it was paused.

use super::sequence::Sequence;
use super::{Engine, Waiting};
use crate::cache::{PAGE, PageTable};
use crate::lookup::CHEAP_ROWS;

impl Engine {
    /// Brings paused answers and then waiting requests into the batch, the oldest first: the first that does not fit
    /// waits, and all behind it.
    pub(super) fn admit(&mut self) {
        self.running.sort_by_key(Sequence::age);
        while let Some(oldest) = self.paused.front() {
            let (age, seats) = (oldest.age(), 1 + oldest.others);
            let table = if self.seats_taken() + seats <= self.settings.max_sequences {
                let tokens = std::mem::take(&mut self.paused[0].tokens);
                let table = self.room_for(&tokens, seats);
                self.paused[0].tokens = tokens;
                table
            } else {
                None
            };
            if let Some(table) = table {
                let Some(mut sequence) = self.paused.pop_front() else { return };
                sequence.table = table;
                self.load.recomputed_tokens += sequence.due() as u64 - 1;
                let at = self.running.partition_point(|r| r.age() < age);
                self.running.insert(at, sequence);
            } else if self.running.last().is_some_and(|youngest| youngest.age() > age) {
                // A sample that found no page when its prompt was complete is older than what arrived after it.
                self.preempt();
            } else {
                return;
            }
        }
        while let Some(Waiting { request, .. }) = self.waiting.front() {
            let request = request.clone();
            if self.seats_taken() + request.samples > self.settings.max_sequences {
                return;
            }
            let Some(table) = self.room_for(&request.prompt, request.samples) else { return };
            let Some(Waiting { job, .. }) = self.waiting.pop_front() else { return };
            self.load.cached_tokens += table.length as u64;
            self.load.prompt_tokens += (request.prompt.len() - table.length) as u64;
            let limit = self.limit(&request);
            self.running.push(Sequence::new(job, request, limit, table));
        }
    }

    /// Answers in the batch, and those that will be when their prompt is computed.
    fn seats_taken(&self) -> usize {
        self.running.iter().map(|r| 1 + r.others).sum()
    }

    /// The pages that hold the beginning of `tokens` already, if those for the rest can be had beside what runs: with
    /// a page more for each answer, so that it is not thrown out again at once.
    fn room_for(&mut self, tokens: &[u32], seats: usize) -> Option<PageTable> {
        let table = self.cache.find(tokens);
        if self.running.is_empty() {
            // What fits at all fits now.
            return Some(table);
        }
        // A guess may have got a page beyond the tokens that are there.
        let missing =
            |tokens: &[u32], table: &PageTable| tokens.len().div_ceil(PAGE).saturating_sub(table.pages.len());
        let owed: usize = self.running.iter().map(|r| missing(&r.tokens, &r.table)).sum();
        let needed = missing(tokens, &table) + owed + self.seats_taken() + seats;
        if needed <= self.cache.available() {
            return Some(table);
        }
        self.cache.release(table);
        None
    }

    /// Takes the pages of the youngest answer and puts it aside.
    fn preempt(&mut self) {
        let Some(mut youngest) = self.running.pop() else { return };
        youngest.guess.clear();
        self.cache.release(std::mem::take(&mut youngest.table));
        self.pause(youngest);
    }

    /// Puts an answer without pages aside.
    pub(super) fn pause(&mut self, sequence: Sequence) {
        self.load.preemptions += 1;
        let at = self.paused.partition_point(|p| p.age() < sequence.age());
        self.paused.insert(at, sequence);
    }

    /// How many rows each running answer has in this step, with pages for all of them. Answers take one row and those
    /// of their guesses; prompts, and what is computed again, share the rest of the batch, the oldest first.
    pub(super) fn plan(&mut self) -> Vec<usize> {
        self.make_guesses();
        let answers = self.running.iter().filter(|r| r.due() == 1).map(|r| 1 + r.guess.len()).sum();
        let mut rest = self.settings.batch_tokens.saturating_sub(answers).max(1);
        let mut rows = Vec::with_capacity(self.running.len());
        while let Some(sequence) = self.running.get_mut(rows.len()) {
            let due = sequence.due();
            let mine = if due == 1 { 1 + sequence.guess.len() } else { rest.min(due) };
            let length = sequence.table.length + mine;
            if self.cache.grow(&mut sequence.table, length) {
                rest -= if due == 1 { 0 } else { mine };
                rows.push(mine);
            } else if !sequence.guess.is_empty() {
                sequence.guess.clear();
            } else {
                // This may be the one that lacks a page; then it is the last of the batch, and all before it have theirs.
                self.preempt();
            }
        }
        rows
    }

    /// Guesses further tokens of answers while the rows are few enough to cost little, and pages plenty.
    fn make_guesses(&mut self) {
        if self.cache.available() < self.running.len() {
            return;
        }
        let answers = self.running.iter().filter(|r| r.due() == 1).count();
        let mut cheap = CHEAP_ROWS.saturating_sub(answers).min(self.settings.lookup_tokens);
        for sequence in &mut self.running {
            let sampling = &sequence.request.sampling;
            // A form wants to see each token before the next is drawn.
            if sequence.due() == 1 && sequence.others == 0 && sampling.constraint.is_none() {
                // The token after the guess must still fit.
                let most = cheap.min((sequence.limit - sequence.tokens.len()).saturating_sub(1));
                let ends = |t: u32| self.end_tokens.contains(&t) || sampling.stop_tokens.contains(&t);
                sequence.guess = sequence.trust.guess(&sequence.tokens, most, ends);
                cheap -= sequence.guess.len();
            }
        }
    }
}

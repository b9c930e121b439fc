//! Steps of decoding as CUDA graphs: the host asks for one thing instead of a hundred kernels, which it could not ask for as
//! fast as a small model computes them.
//!
//! A graph holds for one number of rows: everything else that changes from step to step is read from memory, at places that do
//! not change as long as the buffers of the pass stay where they are.

use super::batch::Batch;
use super::pass::Scratch;
use super::{CardModel, CardPages, LOGIT_ROWS};
use herd_tensor::cuda::{CardError, Graph};
use std::collections::HashMap;

/// Graphs that are kept at most.
const MOST: usize = 128;

/// What a graph depends on besides the buffers of the pass: rows, whether shortlists are made, and where the pool lies.
type Key = (usize, bool, u64);

/// What is known of a step.
enum Step {
    /// It was computed once, which has loaded its kernels and planned its products.
    Known,
    Captured(Graph),
    /// This driver does not capture it.
    Plain,
}

/// The steps that came before.
#[derive(Default)]
pub(super) struct Steps(HashMap<Key, Step>);

impl Steps {
    pub fn captured(&self) -> usize {
        self.0.values().filter(|step| matches!(step, Step::Captured(_))).count()
    }
}

impl CardModel {
    /// Whether a batch is a step that comes again and again: single rows, all of which are answered.
    pub(super) fn is_step(&self, batch: &Batch, wanted: &[usize]) -> bool {
        batch.tiles == 0
            && batch.singles == batch.rows
            && batch.rows <= LOGIT_ROWS
            && wanted.len() == batch.rows
            && wanted.iter().enumerate().all(|(i, row)| *row == i)
    }

    /// Logits of all rows, and their shortlists if wanted.
    pub(super) fn step(
        &self,
        scratch: &mut Scratch,
        pages: &mut CardPages,
        batch: &Batch,
        short: bool,
    ) -> Result<(), CardError> {
        let pool = pages.ready(self)?;
        scratch.words.overwrite_at(0, &batch.words)?;
        let key = (batch.rows, short, pool.address());
        let work = |scratch: &Scratch| {
            self.layers(scratch, pool, batch)?;
            self.head(scratch, batch.rows, None)?;
            match short {
                true => self.shorten(scratch, batch.rows, Self::inverse_of(scratch, batch)),
                false => Ok(()),
            }
        };
        if !self.card.passes().on {
            return work(scratch);
        }
        let step = match scratch.steps.0.get(&key) {
            None => Step::Known,
            Some(Step::Captured(graph)) => return graph.launch(),
            Some(Step::Plain) => return work(scratch),
            Some(Step::Known) => match self.card.capture("a step of decoding", || work(scratch)) {
                Ok(graph) => Step::Captured(graph),
                Err(_) => Step::Plain,
            },
        };
        match &step {
            Step::Captured(graph) => graph.launch()?,
            _ => work(scratch)?,
        }
        if scratch.steps.0.len() >= MOST {
            scratch.steps.0.clear();
        }
        scratch.steps.0.insert(key, step);
        Ok(())
    }
}

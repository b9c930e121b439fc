//! Gradients: one flat buffer with the layout of the parameters, and which of its rows hold anything.

use crate::cuda::api::driver::DevicePtr;
use crate::flat::Flat;
use crate::params::LayoutTable;
use crate::{ParamId, Params};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Values cleared by one task.
const TASK_VALUES: usize = 1 << 18;

/// A set of rows (along the first axis) of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    all: bool,
    /// One bit a row, 64 to a word; without meaning where `all` is set.
    bits: Vec<u64>,
}

impl Rows {
    /// No row of `count`.
    pub fn none(count: usize) -> Self {
        Self { all: false, bits: vec![0; count.div_ceil(64)] }
    }

    /// Whether every row is in the set.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether row `row` is in the set.
    pub fn contains(&self, row: usize) -> bool {
        self.all || self.bits[row / 64] >> (row % 64) & 1 == 1
    }

    /// Adds one row.
    pub fn insert(&mut self, row: usize) {
        self.bits[row / 64] |= 1 << (row % 64);
    }

    /// Adds every row.
    pub fn insert_all(&mut self) {
        self.all = true;
    }

    /// Adds the rows of `other`, of the same parameter.
    pub fn extend(&mut self, other: &Rows) {
        self.all |= other.all;
        self.bits.iter_mut().zip(&other.bits).for_each(|(bits, others)| *bits |= others);
    }

    /// Removes every row.
    pub fn clear(&mut self) {
        self.all = false;
        self.bits.fill(0);
    }

    /// Stretches of `range` that lie wholly inside or wholly outside the set, in order.
    pub fn stretches(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            let (start, inside) = (at, (at < range.end).then(|| self.contains(at))?);
            at = if self.all {
                range.end
            } else {
                (start..range.end).find(|row| self.contains(*row) != inside).unwrap_or(range.end)
            };
            Some((start..at, inside))
        })
    }
}

/// Gradients with the layout of a [`Params`]; operators add into them.
///
/// A parameter of which only some rows got a gradient (an embedding table that is not tied to the head) takes memory
/// for these rows only, and [`Grads::rows`] says which they are.
pub struct Grads {
    layout: Arc<LayoutTable>,
    flat: Flat,
    rows: Vec<Rows>,
}

impl Grads {
    /// Zero gradients for `params`, on the same device.
    pub fn new(params: &Params) -> Self {
        let layout = Arc::clone(&params.layout);
        let flat = Flat::zeros_like(params.buffer());
        let rows = layout.specs.iter().map(|spec| Rows::none(spec.shape[0])).collect();
        Self { layout, flat, rows }
    }

    /// Sets all gradients to zero.
    pub fn zero(&mut self) {
        if let Some(card) = self.flat.card() {
            let bytes = 4 * self.layout.total();
            let result = card.fill(self.flat.at_mut(), 0, bytes);
            result.unwrap_or_else(|error| panic!("card: {error}"));
            return self.rows.iter_mut().for_each(Rows::clear);
        }
        for (index, spec) in self.layout.specs.iter().enumerate() {
            let values = &mut self.flat[self.layout.range(ParamId::new(index))];
            let (count, rows) = (spec.shape[0], &mut self.rows[index]);
            let width = values.len() / count.max(1);
            for (stretch, _) in rows.stretches(0..count).filter(|(_, inside)| *inside) {
                let values = &mut values[stretch.start * width..stretch.end * width];
                values.par_chunks_mut(TASK_VALUES).for_each(|chunk| chunk.fill(0.0));
            }
            rows.clear();
        }
    }

    /// All gradients, for someone who clears them while reading, and the record of rows, which is for them to clear.
    pub fn parts_mut(&mut self) -> (&mut [f32], &mut [Rows]) {
        (&mut self.flat, &mut self.rows)
    }

    /// Which rows of a parameter may hold something other than zero.
    pub fn rows(&self, id: ParamId) -> &Rows {
        &self.rows[id.index()]
    }

    /// Where a parameter lies in [`Grads::flat`].
    pub fn range(&self, id: ParamId) -> Range<usize> {
        self.layout.range(id)
    }

    /// Gradient of one parameter.
    pub fn of(&self, id: ParamId) -> &[f32] {
        &self.flat[self.layout.range(id)]
    }

    /// Writable gradient of one parameter.
    pub fn of_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.layout.range(id);
        if !self.rows[id.index()].is_all() {
            self.rows[id.index()].insert_all();
            self.flat.expect_writes(range.clone());
        }
        &mut self.flat[range]
    }

    /// Address of one parameter's gradient on the card, for kernels that write.
    pub(crate) fn at_mut(&mut self, id: ParamId) -> DevicePtr {
        self.rows[id.index()].insert_all();
        self.flat.at_mut() + 4 * self.layout.range(id).start as u64
    }

    /// Address of all gradients on the card, for kernels that read and clear them.
    pub(crate) fn all_at_mut(&mut self) -> DevicePtr {
        self.rows.iter_mut().for_each(Rows::clear);
        self.flat.at_mut()
    }

    /// Gradient of one parameter of which only the given rows will be written.
    pub fn rows_mut(&mut self, id: ParamId, rows: impl Iterator<Item = usize>) -> &mut [f32] {
        let known = &mut self.rows[id.index()];
        rows.for_each(|row| known.insert(row));
        &mut self.flat[self.layout.range(id)]
    }

    /// All gradients in layout order.
    pub fn flat(&self) -> &[f32] {
        &self.flat
    }

    /// All gradients, writable.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        self.rows.iter_mut().for_each(Rows::insert_all);
        &mut self.flat
    }
}

impl Clone for Grads {
    fn clone(&self) -> Self {
        Self { layout: Arc::clone(&self.layout), flat: self.flat.clone(), rows: self.rows.clone() }
    }
}

//! Gradients: one flat buffer with the layout of the parameters, and which of its rows hold anything.

use crate::cuda::{CardBuffer, expect};
use crate::flat::Flat;
use crate::kernels::matmul::Into;
use crate::params::LayoutTable;
use crate::{ParamId, Params, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

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

    /// Whether no row is in the set.
    pub fn is_none(&self) -> bool {
        !self.all && self.bits.iter().all(|bits| *bits == 0)
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
///
/// Those of parameters on a card are there too, all of them; what the host reads is a copy.
///
/// [`Grads::transient`] has no flat buffer for what was written as a whole, but a buffer of the pool for each parameter, from
/// the first that is added to it until it is cleared.
pub struct Grads {
    layout: Arc<LayoutTable>,
    flat: Flat,
    rows: Vec<Rows>,
    /// See [`Grads::transient`]: for each parameter its gradient, if all rows have one.
    transient: Option<Vec<Option<Tensor>>>,
    card: Option<CardBuffer>,
    /// What the card has, if the host asked for it since it last changed.
    copy: OnceLock<Vec<f32>>,
}

impl Grads {
    /// Zero gradients for `params`.
    pub fn new(params: &Params) -> Self {
        let layout = Arc::clone(&params.layout);
        let flat = Flat::sparse(params.count());
        let rows = layout.specs.iter().map(|spec| Rows::none(spec.shape[0])).collect();
        let bytes = params.count() * size_of::<f32>();
        let card = params.on_card().map(|on| expect(CardBuffer::zeroed(on.card(), bytes)));
        Self { layout, flat, rows, transient: None, card, copy: OnceLock::new() }
    }

    /// Zero gradients for `params`, for a walk that takes each as soon as it is complete ([`crate::Walk::run_updating`]):
    /// each parameter's gradient has memory only as long as there is one. They are read one by one
    /// ([`Grads::of`]). Panics if the parameters are on a card.
    pub fn transient(params: &Params) -> Self {
        assert!(params.on_card().is_none(), "grads: those on a card are one buffer");
        let none = params.specs().iter().map(|_| None).collect();
        Self { transient: Some(none), ..Self::new(params) }
    }

    /// The gradients on a card, to be added to.
    pub(crate) fn card_mut(&mut self) -> Option<&CardBuffer> {
        self.copy.take();
        self.card.as_ref()
    }

    fn host_only(&self) {
        assert!(self.card.is_none(), "grads: those on a card cannot be written by the host");
    }

    fn flat_only(&self) {
        self.host_only();
        assert!(self.transient.is_none(), "grads: transient ones are not in one buffer");
    }

    /// Sets all gradients to zero.
    pub fn zero(&mut self) {
        if let Some(card) = self.card_mut() {
            return expect(card.clear());
        }
        (0..self.rows.len()).for_each(|index| self.clear(ParamId::new(index)));
    }

    /// Sets one parameter's gradient to zero.
    fn clear(&mut self, id: ParamId) {
        let (count, rows) = (self.layout.specs[id.index()].shape[0], &mut self.rows[id.index()]);
        let held = self.transient.as_mut().and_then(|tensors| tensors[id.index()].take());
        if held.is_none() {
            let values = &mut self.flat[self.layout.range(id)];
            let width = values.len() / count.max(1);
            for (stretch, _) in rows.stretches(0..count).filter(|(_, inside)| *inside) {
                let values = &mut values[stretch.start * width..stretch.end * width];
                values.par_chunks_mut(TASK_VALUES).for_each(|chunk| chunk.fill(0.0));
            }
        }
        rows.clear();
    }

    /// Whether there is no gradient of any parameter.
    pub(crate) fn is_clear(&self) -> bool {
        self.rows.iter().all(Rows::is_none)
    }

    /// Lets `update` have a parameter with its gradient, and clears that.
    pub(crate) fn complete(
        &mut self,
        id: ParamId,
        params: &mut Params,
        update: &mut dyn FnMut(Complete<'_>),
    ) {
        let rows = &self.rows[id.index()];
        update(Complete { id, weights: params.value_mut(id), gradient: self.of(id), rows });
        self.clear(id);
    }

    /// All gradients, for someone who clears them while reading, and the record of rows, which is for them to clear.
    /// Panics if they are transient or on a card.
    pub fn parts_mut(&mut self) -> (&mut [f32], &mut [Rows]) {
        self.flat_only();
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
        match self.tensor(id) {
            Some(tensor) => tensor.as_slice(),
            None => &self.buffer()[self.layout.range(id)],
        }
    }

    fn tensor(&self, id: ParamId) -> Option<&Tensor> {
        self.transient.as_ref()?[id.index()].as_ref()
    }

    /// Writable gradient of one parameter.
    pub fn of_mut(&mut self, id: ParamId) -> &mut [f32] {
        let (values, into) = self.target(id);
        if into == Into::Overwrite {
            values.fill(0.0);
        }
        values
    }

    /// Gradient of one parameter for someone who writes to all of it, and whether they must overwrite what is there (it
    /// has no meaning) or add to it.
    pub(crate) fn target(&mut self, id: ParamId) -> (&mut [f32], Into) {
        self.host_only();
        let (range, rows) = (self.layout.range(id), &mut self.rows[id.index()]);
        let Some(tensors) = &mut self.transient else {
            if !rows.is_all() {
                rows.insert_all();
                self.flat.expect_writes(range.clone());
            }
            return (&mut self.flat[range], Into::Add);
        };
        let into = match &tensors[id.index()] {
            Some(_) => Into::Add,
            None => {
                // Rows that came first move here.
                let first = (!rows.is_none()).then(|| self.flat[range].to_vec());
                self.clear(id);
                let shape = &self.layout.specs[id.index()].shape;
                let tensor = match &first {
                    Some(values) => Tensor::from_slice(values, shape),
                    None => Tensor::stale(shape),
                };
                self.transient.as_mut().expect("seen above")[id.index()] = Some(tensor);
                self.rows[id.index()].insert_all();
                if first.is_some() { Into::Add } else { Into::Overwrite }
            }
        };
        let tensor = self.transient.as_mut().and_then(|tensors| tensors[id.index()].as_mut());
        (tensor.expect("just made").make_mut(), into)
    }

    /// Gradient of one parameter of which only the given rows will be written.
    pub fn rows_mut(&mut self, id: ParamId, rows: impl Iterator<Item = usize>) -> &mut [f32] {
        self.host_only();
        let known = &mut self.rows[id.index()];
        rows.for_each(|row| known.insert(row));
        match self.transient.as_mut().and_then(|tensors| tensors[id.index()].as_mut()) {
            Some(tensor) => tensor.make_mut(),
            None => &mut self.flat[self.layout.range(id)],
        }
    }

    /// All gradients in layout order. Panics if they are transient.
    pub fn flat(&self) -> &[f32] {
        assert!(self.transient.is_none(), "grads: transient ones are not in one buffer");
        self.buffer()
    }

    fn buffer(&self) -> &[f32] {
        let Some(card) = &self.card else { return &self.flat };
        self.copy.get_or_init(|| {
            let mut copy = vec![0.0; self.layout.total()];
            expect(card.read(&mut copy));
            copy
        })
    }

    /// All gradients, writable. Panics if they are transient or, as everything that writes does, on a card.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        self.flat_only();
        self.rows.iter_mut().for_each(Rows::insert_all);
        &mut self.flat
    }
}

/// A parameter whose gradient is complete, for who updates it.
pub struct Complete<'a> {
    /// Which.
    pub id: ParamId,
    /// Its values.
    pub weights: &'a mut [f32],
    /// Its gradient.
    pub gradient: &'a [f32],
    /// The rows of which the gradient may be something other than zero.
    pub rows: &'a Rows,
}

impl Clone for Grads {
    fn clone(&self) -> Self {
        let card = self.card.as_ref().map(|card| expect(card.copied()));
        let (layout, flat, rows) = (Arc::clone(&self.layout), self.flat.clone(), self.rows.clone());
        Self { layout, flat, rows, transient: self.transient.clone(), card, copy: OnceLock::new() }
    }
}

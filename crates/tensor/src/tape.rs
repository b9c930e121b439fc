//! The tape: operators append themselves in the forward pass, and `backward` walks from the end, freeing as it goes.

use crate::cuda::{Card, DType, bodies};
use crate::kernels::matmul::Into;
use crate::kernels::rows;
use crate::{Grads, Params, Tensor, profile};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Backward half of an operator, holding what it saved in the forward pass.
pub(crate) trait Backward {
    /// Given the gradient of the output, adds to those of the inputs (`flow.give`, `flow.accumulate`) and of the
    /// parameters (`flow.grads`).
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>);

    /// Says to whom the time of the walk back belongs.
    fn span(&self) -> profile::Guard {
        profile::backward::<Self>()
    }
}

/// How to compute an output again from what is stored anyway, cheaply. Consumers save this instead of the output.
pub(crate) trait Again: Send + Sync {
    fn compute(&self, params: &Params) -> Tensor;
}

/// Where a gradient goes: a node of the tape, or nowhere for constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot(Option<usize>);

impl Slot {
    pub const NONE: Self = Slot(None);
}

/// A value on the tape. Cheap to clone.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<(u64, usize)>,
    again: Option<Arc<dyn Again>>,
}

impl Var {
    /// The computed value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Shape of the value.
    pub fn shape(&self) -> &[usize] {
        self.value.shape()
    }

    /// Size of the first axis.
    pub fn rows(&self) -> usize {
        self.value.rows()
    }

    /// Values per row.
    pub fn width(&self) -> usize {
        self.value.row_len()
    }
}

/// An input that an operator keeps for its backward pass.
pub(crate) enum Saved {
    Value(Tensor),
    Again(Arc<dyn Again>),
}

impl Saved {
    pub fn new(var: &Var) -> Self {
        match &var.again {
            Some(again) => Saved::Again(Arc::clone(again)),
            None => Saved::Value(var.value.clone()),
        }
    }

    pub fn tensor(self, params: &Params) -> Tensor {
        match self {
            Saved::Value(tensor) => tensor,
            Saved::Again(again) => again.compute(params),
        }
    }
}

/// State of a backward walk.
pub(crate) struct Flow<'a> {
    pub params: &'a Params,
    pub grads: &'a mut Grads,
    adjoints: Vec<Option<Tensor>>,
}

impl Flow<'_> {
    /// Whether a gradient for this slot is of any use.
    pub fn wants(&self, slot: Slot) -> bool {
        slot.0.is_some()
    }

    /// Adds a finished gradient.
    pub fn give(&mut self, slot: Slot, grad: Tensor) {
        let Some(index) = slot.0 else { return };
        match &mut self.adjoints[index] {
            empty @ None => *empty = Some(grad),
            Some(sum) if sum.card().is_some() => bodies::add_into(sum, &grad),
            Some(sum) => match sum.get_mut() {
                Some(sum) => rows::add_assign(sum, grad.as_slice()),
                None => {
                    let mut fresh = Tensor::stale(sum.shape());
                    rows::add(fresh.make_mut(), sum.as_slice(), grad.as_slice());
                    *sum = fresh;
                }
            },
        }
    }

    /// Lets `write` add its contribution straight into the gradient of a slot, or overwrite it if it is the first.
    pub fn accumulate(&mut self, slot: Slot, shape: &[usize], write: impl FnOnce(&mut [f32], Into)) {
        let Some(index) = slot.0 else { return };
        match &mut self.adjoints[index] {
            empty @ None => {
                let mut fresh = Tensor::stale(shape);
                write(fresh.make_mut(), Into::Overwrite);
                *empty = Some(fresh);
            }
            Some(sum) => write(sum.make_mut(), Into::Add),
        }
    }
}

/// The same on a card.
impl Flow<'_> {
    /// [`Flow::accumulate`] for a body that writes a tensor, or adds to it.
    pub fn accumulate_on_card(
        &mut self,
        slot: Slot,
        (card, dtype): (Card, DType),
        shape: &[usize],
        write: impl FnOnce(&mut Tensor, Into),
    ) {
        let Some(index) = slot.0 else { return };
        match &mut self.adjoints[index] {
            empty @ None => {
                let mut fresh = Tensor::stale_on(card, dtype, shape);
                write(&mut fresh, Into::Overwrite);
                *empty = Some(fresh);
            }
            Some(sum) => write(sum, Into::Add),
        }
    }
}

static TAPES: AtomicU64 = AtomicU64::new(0);

/// Records operators on the parameters it was made with. One tape serves one forward pass; walking back consumes it.
pub struct Tape<'p> {
    params: &'p Params,
    nodes: Vec<Option<Box<dyn Backward + 'p>>>,
    recording: bool,
    id: u64,
}

impl<'p> Tape<'p> {
    fn with(params: &'p Params, recording: bool) -> Self {
        Self { params, nodes: Vec::new(), recording, id: TAPES.fetch_add(1, Ordering::Relaxed) }
    }

    /// A tape that records for a backward pass.
    pub fn new(params: &'p Params) -> Self {
        Self::with(params, true)
    }

    /// A tape that only computes: nothing is saved.
    pub fn no_grad(params: &'p Params) -> Self {
        Self::with(params, false)
    }

    /// Whether operators are recorded.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// The parameters.
    pub fn params(&self) -> &'p Params {
        self.params
    }

    /// The computed value of a variable.
    pub fn value<'v>(&self, var: &'v Var) -> &'v Tensor {
        &var.value
    }

    /// A value that gets no gradient. If the parameters lie on a card, it is copied there.
    pub fn constant(&self, value: Tensor) -> Var {
        let value = match self.params.place() {
            Some(place) => value.to_card(place.card, place.dtype),
            None => value,
        };
        Var { value, node: None, again: None }
    }

    /// An input whose gradient the caller wants back from the walk.
    pub(crate) fn leaf(&mut self, value: Tensor) -> Var {
        self.nodes.push(None);
        Var { value, node: Some((self.id, self.nodes.len() - 1)), again: None }
    }

    /// The slot of an operator's input.
    pub(crate) fn slot(&self, var: &Var) -> Slot {
        Slot(var.node.map(|(tape, index)| {
            assert_eq!(tape, self.id, "tape: a variable of another tape was used");
            index
        }))
    }

    /// Appends an operator; `save` runs only when recording.
    pub(crate) fn push<B: Backward + 'p>(&mut self, value: Tensor, save: impl FnOnce() -> B) -> Var {
        if !self.recording {
            return self.constant(value);
        }
        self.nodes.push(Some(Box::new(save())));
        Var { value, node: Some((self.id, self.nodes.len() - 1)), again: None }
    }

    /// Like [`Tape::push`], for outputs that consumers should compute again instead of saving.
    pub(crate) fn push_again<B: Backward + 'p>(
        &mut self,
        value: Tensor,
        again: Arc<dyn Again>,
        save: impl FnOnce() -> B,
    ) -> Var {
        let recording = self.recording;
        let mut var = self.push(value, save);
        var.again = recording.then_some(again);
        var
    }

    /// Walks back from a scalar, adding to `grads`. Panics if `loss` holds more than one value or the tape does not
    /// record.
    pub fn backward(self, loss: &Var, grads: &mut Grads) {
        assert_eq!(loss.value.len(), 1, "backward: the loss has shape {:?}, not one value", loss.shape());
        let seed = Tensor::from_slice(&[1.0], loss.shape());
        self.backward_from([(loss.clone(), seed)], grads);
    }

    /// Walks back from given gradients of some variables, adding to `grads`: for losses that are computed outside the
    /// tape. A variable may occur several times.
    pub fn backward_from(self, seeds: impl IntoIterator<Item = (Var, Tensor)>, grads: &mut Grads) {
        self.walk(seeds, grads);
    }

    /// Walks back and returns the gradients of the leaves, by node index. The seeds are given up at once: neither the
    /// value of an output nor a second hold on its gradient lasts until the end.
    pub(crate) fn walk(
        mut self,
        seeds: impl IntoIterator<Item = (Var, Tensor)>,
        grads: &mut Grads,
    ) -> Vec<Option<Tensor>> {
        assert!(self.recording, "backward: this tape does not record (made by no_grad)");
        let adjoints = vec![None; self.nodes.len()];
        let mut flow = Flow { params: self.params, grads, adjoints };
        for (var, seed) in seeds {
            assert_eq!(var.shape(), seed.shape(), "backward: shapes of a variable and its gradient differ");
            let seed = match var.value.card() {
                Some(card) => seed.to_card(card, var.value.dtype()),
                None => seed,
            };
            flow.give(self.slot(&var), seed);
        }
        while let Some(node) = self.nodes.pop() {
            let Some(operator) = node else { continue };
            if let Some(grad) = flow.adjoints[self.nodes.len()].take() {
                let _span = operator.span();
                operator.backward(grad, &mut flow);
            }
        }
        flow.adjoints
    }

    /// Runs `block` and forgets its insides; the backward pass runs it again (arXiv 1604.06174). `block` must compute
    /// the same from the same inputs, and use no variable of this tape but its `inputs`.
    pub fn segment<F>(&mut self, inputs: &[&Var], block: F) -> Var
    where
        F: Fn(&mut Tape<'p>, &[Var]) -> Var + 'p,
    {
        let _span = profile::span("segment");
        let mut inner = Tape::no_grad(self.params);
        let constants: Vec<Var> = inputs.iter().map(|var| inner.constant(var.value.clone())).collect();
        let output = block(&mut inner, &constants);
        drop(constants);
        let slots: Vec<Slot> = inputs.iter().map(|var| self.slot(var)).collect();
        let values = inputs.iter().map(|var| var.value.clone()).collect();
        let params = self.params;
        self.push(output.value, || Recomputed { params, block, values, slots })
    }
}

/// A block whose insides are computed again in the backward pass.
struct Recomputed<'p, F> {
    params: &'p Params,
    block: F,
    values: Vec<Tensor>,
    slots: Vec<Slot>,
}

impl<'p, F: Fn(&mut Tape<'p>, &[Var]) -> Var> Backward for Recomputed<'p, F> {
    fn backward(self: Box<Self>, grad: Tensor, flow: &mut Flow<'_>) {
        let mut tape = Tape::new(self.params);
        let leaves: Vec<Var> = self.values.into_iter().map(|value| tape.leaf(value)).collect();
        let output = (self.block)(&mut tape, &leaves);
        drop(leaves);
        let adjoints = tape.walk([(output, grad)], flow.grads);
        for (slot, adjoint) in self.slots.iter().zip(adjoints) {
            if let Some(adjoint) = adjoint {
                flow.give(*slot, adjoint);
            }
        }
    }
}

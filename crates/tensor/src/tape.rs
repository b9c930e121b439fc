//! The tape: operators append themselves in the forward pass; the walk back (`walk.rs`) takes them from the end.

use crate::walk::{Block, Flow, Node, Step, Unfolded, Walk};
use crate::{Grads, ParamId, Params, Tensor, profile};
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
pub(crate) struct Slot(pub Option<usize>);

impl Slot {
    pub const NONE: Self = Slot(None);
}

/// A value on the tape. Cheap to clone. Operators that take `impl Borrow<Var>` may be given a variable for good: then its
/// value is free at the end of the operator, unless the backward pass needs it.
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

    /// The value, without the hold on it that operators need for recomputation.
    pub(crate) fn into_value(self) -> Tensor {
        self.value
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

static TAPES: AtomicU64 = AtomicU64::new(0);

/// Records operators on the parameters it was made with. One tape serves one forward pass; walking back consumes it.
pub struct Tape<'p> {
    params: &'p Params,
    nodes: Vec<Node>,
    /// Parameters read since the last node, which are that operator's.
    read: Vec<ParamId>,
    recording: bool,
    /// Of a tape that computes a forgotten block again; `None` on others.
    again: Option<Replay>,
    id: u64,
}

/// How far a block is that is computed again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Replay {
    Running,
    /// Its output, which nobody reads, was left out.
    Ended,
}

impl<'p> Tape<'p> {
    fn with(params: &'p Params, recording: bool) -> Self {
        Self {
            params,
            nodes: Vec::new(),
            read: Vec::new(),
            recording,
            again: None,
            id: TAPES.fetch_add(1, Ordering::Relaxed),
        }
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

    /// Whether a block is computed again, whose output nobody reads.
    pub(crate) fn computes_again(&self) -> bool {
        self.again.is_some()
    }

    /// The operator just appended was the last of a block.
    pub(crate) fn end_block(&mut self) {
        self.again = self.again.map(|_| Replay::Ended);
    }

    /// The parameters.
    pub fn params(&self) -> &'p Params {
        self.params
    }

    /// The value of a parameter, for the operator that is about to be appended: as long as that stands on the tape, the
    /// parameter's gradient is not complete, and its value must not change. Everything that reads parameters in the
    /// host's memory asks here.
    pub(crate) fn weight(&mut self, id: ParamId) -> &'p [f32] {
        self.read.push(id);
        self.params.value(id)
    }

    /// The computed value of a variable.
    pub fn value<'v>(&self, var: &'v Var) -> &'v Tensor {
        &var.value
    }

    /// A value that gets no gradient.
    pub fn constant(&self, value: Tensor) -> Var {
        let value = match self.params.on_card() {
            Some(on) if value.card().is_none() => value.on_card(on.card(), on.activations()),
            _ => value,
        };
        Var { value, node: None, again: None }
    }

    /// An input whose gradient the caller wants back from the walk.
    pub(crate) fn leaf(&mut self, value: Tensor) -> Var {
        self.append(Step::Leaf);
        Var { value, node: Some((self.id, self.nodes.len() - 1)), again: None }
    }

    /// The slot of an operator's input.
    pub(crate) fn slot(&self, var: &Var) -> Slot {
        Slot(var.node.map(|(tape, index)| {
            assert_eq!(tape, self.id, "tape: a variable of another tape was used");
            index
        }))
    }

    fn append(&mut self, step: Step) {
        assert!(self.again != Some(Replay::Ended), "tape: an operator follows the last one of a block");
        self.nodes.push(Node { step, params: std::mem::take(&mut self.read) });
    }

    /// Appends an operator; `save` runs only when recording.
    pub(crate) fn push<B: Backward + 'static>(&mut self, value: Tensor, save: impl FnOnce() -> B) -> Var {
        self.push_step(value, || Step::Operator(Box::new(save())))
    }

    fn push_step(&mut self, value: Tensor, step: impl FnOnce() -> Step) -> Var {
        if !self.recording {
            return self.constant(value);
        }
        self.append(step());
        Var { value, node: Some((self.id, self.nodes.len() - 1)), again: None }
    }

    /// Like [`Tape::push`], for outputs that consumers should compute again instead of saving.
    pub(crate) fn push_again<B: Backward + 'static>(
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
        let params = self.params;
        self.walk_from(seeds).run(params, grads);
    }

    /// The walk back from given gradients of some variables, yet to be made; the tape's hold on the parameters ends
    /// here. The seeds are given up at once: neither the value of an output nor a second hold on its gradient lasts
    /// until the end.
    pub(crate) fn walk_from(self, seeds: impl IntoIterator<Item = (Var, Tensor)>) -> Walk {
        let seeds = seeds.into_iter().map(|(var, seed)| {
            assert_eq!(var.shape(), seed.shape(), "backward: shapes of a variable and its gradient differ");
            let seed = match var.value.card() {
                Some(card) => seed.on_card(card, var.value.place().1),
                None => seed,
            };
            (self.slot(&var), seed)
        });
        let seeds = seeds.collect();
        self.walk_from_slots(seeds)
    }

    /// The same from gradients of slots, of the shapes of their variables.
    pub(crate) fn walk_from_slots(self, seeds: Vec<(Slot, Tensor)>) -> Walk {
        assert!(self.recording, "backward: this tape does not record (made by no_grad)");
        Walk::new(self.nodes, seeds)
    }

    /// Runs `block` and forgets its insides; the backward pass runs it again (arXiv 1604.06174). `block` must compute
    /// the same from the same inputs, and use no variable of this tape but its `inputs`. If its last operator is
    /// [`Tape::linear_add_last`], that is not computed again.
    pub fn segment<F>(&mut self, inputs: &[&Var], block: F) -> Var
    where
        F: Fn(&mut Tape<'_>, &[Var]) -> Var + 'static,
    {
        let _span = profile::span("segment");
        let mut inner = Tape::no_grad(self.params);
        let constants: Vec<Var> = inputs.iter().map(|var| inner.constant(var.value.clone())).collect();
        let output = block(&mut inner, &constants);
        drop(constants);
        let slots: Vec<Slot> = inputs.iter().map(|var| self.slot(var)).collect();
        let values = inputs.iter().map(|var| var.value.clone()).collect();
        self.read.extend(inner.read);
        self.push_step(output.value, || Step::Block(Box::new(Recomputed { block, values, slots })))
    }
}

/// A block whose insides are computed again in the backward pass.
struct Recomputed<F> {
    block: F,
    values: Vec<Tensor>,
    slots: Vec<Slot>,
}

impl<F: Fn(&mut Tape<'_>, &[Var]) -> Var> Block for Recomputed<F> {
    fn again(self: Box<Self>, grad: Tensor, params: &Params) -> Unfolded {
        let _span = profile::backward::<Self>();
        let mut tape = Tape { again: Some(Replay::Running), ..Tape::new(params) };
        let leaves: Vec<Var> = self.values.into_iter().map(|value| tape.leaf(value)).collect();
        let output = (self.block)(&mut tape, &leaves);
        drop(leaves);
        Unfolded { walk: tape.walk_from([(output, grad)]), inputs: self.slots }
    }
}

//! The walk back over a tape: operators from the last to the first, each freed with what it kept.
//!
//! It knows which parameters are still to be read or added to. So whoever updates them can do so in the middle of the
//! walk ([`Walk::run_updating`]): as soon as the gradient of a parameter is complete, and nobody needs its old value.

use crate::cuda::DType;
use crate::grads::Complete;
use crate::kernels::matmul::Into;
use crate::kernels::rows;
use crate::tape::{Backward, Slot};
use crate::{Grads, ParamId, Params, Tensor};

/// What stands on the tape at one place.
pub(crate) struct Node {
    pub step: Step,
    /// The parameters that it reads; a gradient it adds to is that of one of them.
    pub params: Vec<ParamId>,
}

pub(crate) enum Step {
    /// An input whose gradient is wanted.
    Leaf,
    Operator(Box<dyn Backward>),
    /// Operators that were forgotten and are computed again.
    Block(Box<dyn Block>),
}

/// Operators that were forgotten.
pub(crate) trait Block {
    /// Computes them again; `grad` is the gradient of the output.
    fn again(self: Box<Self>, grad: Tensor, params: &Params) -> Unfolded;
}

/// A block's operators, and where the gradients of its leaves, which stand first, go.
pub(crate) struct Unfolded {
    pub walk: Walk,
    pub inputs: Vec<Slot>,
}

/// State of a walk, for an operator.
pub(crate) struct Flow<'a> {
    pub params: &'a Params,
    pub grads: &'a mut Grads,
    adjoints: &'a mut [Option<Tensor>],
}

impl Flow<'_> {
    /// Whether a gradient for this slot is of any use.
    pub fn wants(&self, slot: Slot) -> bool {
        slot.0.is_some()
    }

    /// Adds a finished gradient.
    pub fn give(&mut self, slot: Slot, grad: Tensor) {
        give(self.adjoints, slot, grad);
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

/// On a card.
impl Flow<'_> {
    /// As [`Flow::accumulate`]: `write` is told the gradient and whether to add to it.
    pub fn accumulate_on_card(
        &mut self,
        slot: Slot,
        dtype: DType,
        shape: &[usize],
        write: impl FnOnce(&Tensor, bool),
    ) {
        let Some(index) = slot.0 else { return };
        match &mut self.adjoints[index] {
            empty @ None => {
                let on = self.params.on_card().expect("the parameters are on a card");
                let fresh = Tensor::stale_on(on.card(), dtype, shape);
                write(&fresh, false);
                *empty = Some(fresh);
            }
            Some(sum) => {
                sum.make_unique();
                write(sum, true);
            }
        }
    }
}

fn give(adjoints: &mut [Option<Tensor>], slot: Slot, grad: Tensor) {
    let Some(index) = slot.0 else { return };
    match &mut adjoints[index] {
        empty @ None => *empty = Some(grad),
        Some(sum) if sum.card().is_some() => sum.add_on_card(&grad),
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

/// A forward pass that is done, with the gradient of its end: the walk back is still to be made. It holds no parameters.
pub struct Walk {
    nodes: Vec<Node>,
    /// Gradients of the nodes' values, as far as they are known.
    adjoints: Vec<Option<Tensor>>,
}

/// The parameters of a walk.
enum Weights<'a, 'u> {
    Fixed(&'a Params),
    Updated {
        params: &'a mut Params,
        /// For each parameter, how many nodes yet to be walked read it.
        readers: Vec<u32>,
        update: &'u mut dyn FnMut(Complete<'_>),
    },
}

impl Weights<'_, '_> {
    fn params(&self) -> &Params {
        match self {
            Self::Fixed(params) => params,
            Self::Updated { params, .. } => params,
        }
    }

    /// Counts readers that a block has turned out to consist of.
    fn more(&mut self, nodes: &[Node]) {
        if let Self::Updated { readers, .. } = self {
            nodes.iter().flat_map(|node| &node.params).for_each(|id| readers[id.index()] += 1);
        }
    }

    /// A node is done: parameters that nobody else reads are updated.
    fn done(&mut self, read: &[ParamId], grads: &mut Grads) {
        let Self::Updated { params, readers, update } = self else { return };
        for &id in read {
            readers[id.index()] -= 1;
            if readers[id.index()] == 0 {
                grads.complete(id, params, update);
            }
        }
    }
}

impl Walk {
    pub(crate) fn new(nodes: Vec<Node>, seeds: Vec<(Slot, Tensor)>) -> Self {
        let mut adjoints = vec![None; nodes.len()];
        for (slot, seed) in seeds {
            give(&mut adjoints, slot, seed);
        }
        Self { nodes, adjoints }
    }

    /// Makes the walk, adding to `grads`.
    pub fn run(self, params: &Params, grads: &mut Grads) {
        self.walk(&mut Weights::Fixed(params), grads);
    }

    /// Makes the walk and calls `update` once for every parameter, as soon as its gradient (with what `grads` had of it)
    /// is complete and its value is not needed any more; then that gradient is cleared. With
    /// [`Grads::transient`] its memory is free for what comes next, so the gradients never exist all at once.
    ///
    /// Every parameter is updated from its own gradient alone, so the order, which is about that of the walk, is no
    /// matter of the outcome. `params` must be those that the tape was made with; panics if they are on a card.
    pub fn run_updating(self, params: &mut Params, grads: &mut Grads, update: &mut dyn FnMut(Complete<'_>)) {
        assert!(params.on_card().is_none(), "backward: parameters on a card are updated after the walk");
        let ids = params.ids();
        let readers = vec![0; params.specs().len()];
        let mut weights = Weights::Updated { params, readers, update };
        weights.more(&self.nodes);
        // What no node reads: a head, for instance, whose loss was computed in the forward pass.
        if let Weights::Updated { params, readers, update } = &mut weights {
            for id in ids.filter(|id| readers[id.index()] == 0) {
                grads.complete(id, params, update);
            }
        }
        self.walk(&mut weights, grads);
        assert!(
            grads.is_clear(),
            "backward: an operator added to the gradient of a parameter that it had not read"
        );
    }

    /// Returns the gradients of the leaves, by node.
    fn walk(mut self, weights: &mut Weights<'_, '_>, grads: &mut Grads) -> Vec<Option<Tensor>> {
        while let Some(Node { step, params: read }) = self.nodes.pop() {
            if matches!(step, Step::Leaf) {
                continue;
            }
            if let Some(grad) = self.adjoints[self.nodes.len()].take() {
                match step {
                    Step::Leaf => unreachable!("left out above"),
                    Step::Operator(operator) => {
                        let _span = operator.span();
                        let adjoints = &mut self.adjoints;
                        operator.backward(grad, &mut Flow { params: weights.params(), grads, adjoints });
                    }
                    Step::Block(block) => {
                        let Unfolded { walk, inputs } = block.again(grad, weights.params());
                        // From here on those who read are the operators inside.
                        weights.more(&walk.nodes);
                        weights.done(&read, grads);
                        let leaves = walk.walk(weights, grads);
                        for (slot, grad) in inputs.into_iter().zip(leaves) {
                            if let Some(grad) = grad {
                                give(&mut self.adjoints, slot, grad);
                            }
                        }
                        continue;
                    }
                }
            }
            weights.done(&read, grads);
        }
        self.adjoints
    }
}

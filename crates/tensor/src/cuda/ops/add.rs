//! `ops/add.rs` on a card.

use super::each;
use crate::Tensor;

impl Tensor {
    /// The sum of two tensors of one shape and type on a card.
    pub(crate) fn plus_on_card(&self, other: &Tensor) -> Tensor {
        let (from, dtype) = self.place();
        let sum = Tensor::stale_on(from.card(), dtype, self.shape());
        each(
            from.card(),
            dtype,
            "add",
            self.len(),
            &[from.into(), other.arg(), sum.arg(), self.len().into()],
        );
        sum
    }

    /// Adds a tensor of the same shape and type on the same card.
    pub(crate) fn add_on_card(&mut self, other: &Tensor) {
        self.make_unique();
        let (to, dtype) = self.place();
        each(to.card(), dtype, "add", self.len(), &[to.into(), other.arg(), to.into(), self.len().into()]);
    }
}

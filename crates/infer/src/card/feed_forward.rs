//! The feed-forward part of a block, in the model's type or with weights in FP8 (the Llama 3 paper, 6.2).
//!
//! In FP8 a weight is a code in e4m3 times the scale of its row. More than 8 rows of activations are made such rows too, each
//! with a scale of its own of the moment, and multiplied by cuBLASLt: the stream as it is normalised, what is between the two
//! products as it is gated (`kernels/e4m3.cu`). Up to 8 rows are multiplied as they are, in bf16, with weights that become bf16
//! in registers: that is limited by reading the weights, so rounding activations would gain nothing. A token's numbers thus
//! depend a little on whether it was computed in a prompt or in a step of a few answers.

use super::pass::{FEW_ROWS, Scratch, int, padded};
use super::{CardLayer, CardModel, FfnMatrix};
use crate::weights::Sizes;
use crate::{ActivationType, Error, Settings, WeightType};
use herd_run::SettingError;
use herd_tensor::cuda::{
    Arg, Card, CardBuffer, CardError, DType, E4m3Products, Element, Mat, Product, Scales,
};
use std::ops::Range;

/// What the columns of codes are a multiple of.
const ALIGNED: usize = 16;

/// The layers whose feed-forward part is in FP8 where that is asked for: all but the first and the last.
pub(super) fn layers_in_e4m3(layers: usize) -> Range<usize> {
    1..layers.saturating_sub(1).max(1)
}

/// How this card multiplies in FP8, if the settings ask for that.
///
/// # Errors
/// There is no card, it cannot, or other settings are against it.
pub(crate) fn e4m3_products(card: Option<&Card>, settings: &Settings) -> Result<Option<E4m3Products>, Error> {
    let refused = |problem: String| Err(SettingError::new("weights", problem).into());
    match (settings.weights, card) {
        (WeightType::Auto, _) => Ok(None),
        (WeightType::Fp8, None) => refused(
            "fp8 is for a card (`--device cuda`); for the processor make a file of fewer bits: \
             `herd convert --type q8_0`"
                .into(),
        ),
        (WeightType::Fp8, Some(_)) if settings.activations == ActivationType::F32 => {
            refused("fp8 goes with activations in bf16; leave `activations` at auto, or `weights`".into())
        }
        (WeightType::Fp8, Some(card)) => match card.e4m3_products()? {
            Ok(products) => Ok(Some(products)),
            Err(reason) => refused(format!("{reason}; or leave `weights` at auto, which is bf16")),
        },
    }
}

/// Whether a model's sizes suit FP8.
pub(super) fn check_sizes(s: &Sizes) -> Result<(), Error> {
    for (what, size) in [("hidden size", s.hidden), ("feed-forward size", s.ffn)] {
        if !size.is_multiple_of(ALIGNED) {
            let problem =
                format!("fp8 needs a {what} that is a multiple of {ALIGNED}, not {size}; leave it at auto");
            return Err(SettingError::new("weights", problem).into());
        }
    }
    Ok(())
}

impl CardModel {
    /// `x += silu(gate) up down^T` of the normalised stream.
    pub(super) fn feed_forward(
        &self,
        scratch: &Scratch,
        n: usize,
        layer: &CardLayer,
    ) -> Result<(), CardError> {
        let s = &self.sizes;
        let few = self.are_few(n, s.hidden) && s.ffn.is_multiple_of(FEW_ROWS / 2);
        if let (false, Some(products), true) = (few, self.e4m3, layer.gate_up.scales.is_some()) {
            return self.feed_forward_e4m3(scratch, n, layer, products);
        }
        let input = self.normed(scratch, n, None, &layer.ffn_norm)?;
        if few {
            let kernel = if layer.gate_up.scales.is_some() { "few_gated_e4m3" } else { "few_gated" };
            let last = [(&scratch.gated).into(), int(n), int(s.hidden), int(s.ffn)];
            let arguments = [&layer.gate_up.arguments()[..], &input, &last].concat();
            self.few(kernel, s.ffn / (FEW_ROWS / 2), n, &arguments)?;
        } else {
            let w = layer.gate_up.weight(2 * s.ffn, s.hidden);
            self.product(n, &scratch.normed, &w, (&scratch.gate_up, self.dtype), false)?;
            let pairs = n * s.ffn;
            let arguments = [(&scratch.gate_up).into(), (&scratch.gated).into(), pairs.into(), int(s.ffn)];
            self.each("swiglu", pairs, &arguments)?;
        }
        if layer.down.scales.is_none() {
            let down = layer.down.weight(s.hidden, s.ffn);
            return self.add_product(scratch, n, &scratch.gated, &down, None);
        }
        let last = [(&scratch.gated).into(), (&scratch.x).into(), self.squares(scratch, n)];
        let sizes = [n, s.ffn, s.hidden].map(int);
        let arguments = [&layer.down.arguments()[..], &last, &sizes].concat();
        self.few("few_add_e4m3", s.hidden.div_ceil(FEW_ROWS), n, &arguments)
    }

    /// The same with activations in FP8. Their codes lie where those in bf16 would, the scales of gate and up's input and
    /// then of down's in one place.
    fn feed_forward_e4m3(
        &self,
        scratch: &Scratch,
        n: usize,
        layer: &CardLayer,
        products: E4m3Products,
    ) -> Result<(), CardError> {
        let (s, scales) = (&self.sizes, Arg::from(&scratch.scales));
        let codes = [(&scratch.normed).into(), scales];
        let last = [int(s.hidden), s.eps.into()];
        let arguments = [&[(&scratch.x).into(), (&layer.ffn_norm).into()][..], &codes, &last].concat();
        self.launch("norm_rows_e4m3", (n, 1), &arguments)?;

        let multiply = |from: &CardBuffer, w: &FfnMatrix, (rows, columns), out: (&CardBuffer, DType)| {
            let of_w = w.scales.as_ref().map_or(0, CardBuffer::address);
            let scales = Scales { rows: scratch.scales.address(), columns: of_w };
            self.card.product(&Product {
                sizes: (padded(n), rows, columns),
                a: Mat::rows(from.address(), Element::E4m3, columns),
                b: Mat::rows(w.values.address(), Element::E4m3, columns).t(),
                out: Mat::rows(out.0.address(), out.1, rows),
                add: (out.1 == DType::F32).then_some(out.0.address()),
                scales: products.scales().then_some(scales),
            })
        };
        // Where a product is not scaled yet, what follows is told the scales.
        let left = |w: &FfnMatrix| match (products.scales(), &w.scales) {
            (false, Some(of_w)) => [scales, of_w.into()],
            _ => [0u64.into(); 2],
        };
        let gate_up = (&scratch.gate_up, DType::Bf16);
        multiply(&scratch.normed, &layer.gate_up, (2 * s.ffn, s.hidden), gate_up)?;
        let codes = [(&scratch.gated).into(), scales, int(s.ffn)];
        let arguments = [&[(&scratch.gate_up).into()][..], &left(&layer.gate_up), &codes].concat();
        self.launch("swiglu_e4m3", (n, 1), &arguments)?;

        let down = (s.hidden, s.ffn);
        if products.adds() {
            return multiply(&scratch.gated, &layer.down, down, (&scratch.x, DType::F32));
        }
        multiply(&scratch.gated, &layer.down, down, (&scratch.normed, DType::Bf16))?;
        let values = n * s.hidden;
        let last = [(&scratch.x).into(), values.into(), int(s.hidden)];
        let arguments = [&[(&scratch.normed).into()][..], &left(&layer.down), &last].concat();
        self.each("add_rows", values, &arguments)
    }
}

//! The optimizer's moments on a card.

use crate::moments::{Moments, Pair};
use herd_tensor::cuda::{CardAdamW, CardError, CardReport, CardRule};
use herd_tensor::{Flat, Grads, Params, Tensor};

/// Moments on a card, which the host's are copies of.
pub(crate) struct CardMoments {
    inner: CardAdamW,
    /// Whether the host has newer ones.
    pub outdated: bool,
}

impl CardMoments {
    /// The host's moments are uploaded before the first step.
    pub fn new(params: &Params) -> Result<Self, CardError> {
        Ok(Self { inner: CardAdamW::new(params)?, outdated: true })
    }

    /// Asks for one step; if the gradient or a loss is not finite, nothing will change but the gradient, which is cleared.
    /// `host` are the moments of the host, if it has them, after so many `steps`.
    pub fn step(
        &mut self,
        rule: CardRule,
        losses: &[Tensor],
        (host, steps): (Option<&Moments>, u64),
        params: &mut Params,
        grads: &mut Grads,
    ) -> Result<CardReport, CardError> {
        if std::mem::take(&mut self.outdated) {
            let moments = host.expect("what is outdated is on the host").widened();
            for (to, from) in self.inner.moments().iter().zip(&moments) {
                to.overwrite(from)?;
            }
            self.inner.count_from(steps)?;
        }
        self.inner.step(rule, losses, params, grads)
    }

    /// A copy for the host. Panics if the card fails.
    pub fn read(&self) -> Moments {
        let [first, second] = self.inner.moments();
        let mut pair =
            Pair { first: Flat::dense(first.bytes() / 4), second: Flat::dense(second.bytes() / 4) };
        for (from, to) in [(first, &mut pair.first), (second, &mut pair.second)] {
            from.read(to).unwrap_or_else(|error| panic!("{error}"));
        }
        Moments::F32(pair)
    }
}

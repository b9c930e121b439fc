//! Parameters in a card's memory.

use super::{Arg, Card, CardBuffer, CardError, DType, THREADS, expect};
use crate::ParamId;
use std::sync::{Mutex, PoisonError};

/// Values of all parameters on a card: f32, and the copy in bf16 that products read if activations are bf16.
pub struct CardParams {
    card: Card,
    activations: DType,
    values: CardBuffer,
    copy: Option<CardBuffer>,
    /// Whether the host has written since the last upload.
    outdated: Mutex<bool>,
}

impl CardParams {
    pub(crate) fn new(card: &Card, activations: DType, values: &[f32]) -> Result<Self, CardError> {
        let count = values.len();
        let values = CardBuffer::from_host(card, values)?;
        let copy = match activations {
            DType::F32 => None,
            DType::Bf16 => Some(CardBuffer::stale(card, count * DType::Bf16.size())?),
        };
        let params = Self { card: card.clone(), activations, values, copy, outdated: Mutex::new(false) };
        params.round()?;
        Ok(params)
    }

    /// Makes the copy that activations are computed with.
    fn round(&self) -> Result<(), CardError> {
        let Some(copy) = &self.copy else { return Ok(()) };
        let count = self.values.bytes() / DType::F32.size();
        let arguments = [Arg::from(&self.values), copy.into(), count.into()];
        self.card.launch(self.activations, "from_f32", (count.div_ceil(THREADS), 1), &arguments)
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// What activations are stored as.
    pub fn activations(&self) -> DType {
        self.activations
    }

    /// Says that the host has written.
    pub(crate) fn outdate(&self) {
        *self.outdated.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Uploads what the host has written, if it has.
    pub(crate) fn refresh<'a>(&self, host: impl FnOnce() -> &'a [f32]) {
        let mut outdated = self.outdated.lock().unwrap_or_else(PoisonError::into_inner);
        if *outdated {
            expect(self.values.overwrite(host()).and_then(|()| self.round()));
            *outdated = false;
        }
    }

    /// Copies all values to the host.
    pub(crate) fn read(&self, into: &mut [f32]) {
        expect(self.values.read(into));
    }

    pub(crate) fn copied(&self) -> Self {
        Self {
            card: self.card.clone(),
            activations: self.activations,
            values: expect(self.values.copied()),
            copy: self.copy.as_ref().map(|copy| expect(copy.copied())),
            outdated: Mutex::new(false),
        }
    }

    /// The f32 values, for the optimizer and the norms, and the copy if there is one.
    pub(crate) fn values(&self) -> (&CardBuffer, Option<&CardBuffer>) {
        (&self.values, self.copy.as_ref())
    }
}

impl crate::Params {
    /// Address of a parameter's f32 values on the card. Panics if they are not on one.
    pub(crate) fn f32_address(&self, id: ParamId) -> u64 {
        let on = self.on_card().expect("the parameters are on a card");
        on.values.address() + (self.range(id).start * DType::F32.size()) as u64
    }

    /// Address of what products read of a parameter, in the type of activations.
    pub(crate) fn act_address(&self, id: ParamId) -> u64 {
        let on = self.on_card().expect("the parameters are on a card");
        let buffer = on.copy.as_ref().unwrap_or(&on.values);
        buffer.address() + (self.range(id).start * on.activations.size()) as u64
    }
}

impl crate::Grads {
    /// Address of a parameter's gradient on the card, to be added to. Panics if it is not on one.
    pub(crate) fn address_mut(&mut self, id: ParamId) -> u64 {
        let start = (self.range(id).start * DType::F32.size()) as u64;
        self.card_mut().expect("the gradients are on a card").address() + start
    }
}

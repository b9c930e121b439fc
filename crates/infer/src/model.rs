//! The model on the device that computes with it: the seam between the scheduler, which knows no device, and the host's or a
//! card's forward pass.

use crate::cache::{KvCache, PAGE, Pages};
use crate::card::{CardModel, e4m3_products};
use crate::forward::{self, Input};
use crate::sampling::{Row, Sampling};
use crate::team::Team;
use crate::weights::{Sizes, Weights};
use crate::{CacheType, Error, Settings};
use herd_tensor::cuda::Card;
use std::sync::Arc;

/// Tokens of cache and rows of a batch on the processor, where the settings leave them to the device.
const CACHE_TOKENS: usize = 32_768;
const BATCH_TOKENS: usize = 256;

/// Weights on a device. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Model {
    /// In the host's memory.
    Host(Arc<Weights>, CacheType),
    /// In a card's memory.
    Card(Arc<CardModel>),
}

impl Model {
    /// Brings weights to the device, and completes the settings with what they leave to it.
    pub(crate) fn new(
        weights: Weights,
        card: Option<Card>,
        mut settings: Settings,
    ) -> Result<(Self, Settings), Error> {
        if let Some(card) = card {
            let (model, settings) = CardModel::new(card, &weights, settings)?;
            return Ok((Model::Card(Arc::new(model)), settings));
        }
        e4m3_products(None, &settings)?;
        for (value, usual) in
            [(&mut settings.cache_tokens, CACHE_TOKENS), (&mut settings.batch_tokens, BATCH_TOKENS)]
        {
            *value = if *value == 0 { usual } else { *value };
        }
        Ok((Model::Host(Arc::new(weights), settings.cache_type), settings))
    }

    pub(crate) fn sizes(&self) -> Sizes {
        match self {
            Model::Host(weights, _) => weights.sizes,
            Model::Card(model) => model.sizes,
        }
    }

    /// A cache of at most so many pages, whose memory is taken when it is needed.
    pub(crate) fn cache(&self, pages: usize) -> KvCache {
        let store = match self {
            Model::Host(weights, kept) => {
                Pages::Host(crate::cache::HostPages::new(weights.cache_shape(*kept)))
            }
            Model::Card(model) => Pages::Card(model.pages(pages)),
        };
        KvCache::new(store, pages)
    }

    /// Bytes of a cache of so many tokens.
    pub(crate) fn cache_bytes(&self, tokens: usize) -> usize {
        let page = match self {
            Model::Host(weights, kept) => weights.cache_shape(*kept).page_bytes(),
            Model::Card(model) => model.page_bytes(),
        };
        tokens.div_ceil(PAGE) * page
    }

    /// What computes, if it is not the processor.
    pub(crate) fn describe(&self) -> Option<String> {
        match self {
            Model::Host(..) => None,
            Model::Card(model) => Some(model.describe()),
        }
    }

    /// Computes the rows, puts their keys and values into the cache, and returns the logits [wanted, vocab] of the wanted
    /// rows. The cache is one that this model made.
    pub(crate) fn forward(
        &self,
        team: &Team,
        cache: &mut KvCache,
        input: Input<'_>,
    ) -> Result<Vec<f32>, Error> {
        match (self, cache.store()) {
            (Model::Host(weights, _), Pages::Host(pages)) => {
                Ok(forward::forward(weights, team, pages, input))
            }
            (Model::Card(model), Pages::Card(pages)) => Ok(model.logits(pages, input)?),
            _ => panic!("a cache is used with the model that made it"),
        }
    }

    /// As [`Model::forward`], with the sampling that each wanted row is for: what it does not need may be left out.
    pub(crate) fn rows(
        &self,
        team: &Team,
        cache: &mut KvCache,
        input: Input<'_>,
        samplings: &[&Sampling],
    ) -> Result<Vec<Row>, Error> {
        if let (Model::Card(model), Pages::Card(pages)) = (self, cache.store()) {
            return Ok(model.rows(pages, input, samplings)?);
        }
        let logits = self.forward(team, cache, input)?;
        if logits.len() == self.sizes().vocab {
            return Ok(vec![Row::Whole(logits)]);
        }
        Ok(logits.chunks_exact(self.sizes().vocab).map(|row| Row::Whole(row.to_vec())).collect())
    }

    /// As [`Model::forward`], but returns the hidden states [wanted, hidden] after the final norm.
    pub(crate) fn hidden(
        &self,
        team: &Team,
        cache: &mut KvCache,
        input: Input<'_>,
    ) -> Result<Vec<f32>, Error> {
        match (self, cache.store()) {
            (Model::Host(weights, _), Pages::Host(pages)) => Ok(forward::hidden(weights, team, pages, input)),
            (Model::Card(model), Pages::Card(pages)) => Ok(model.hidden(pages, input)?),
            _ => panic!("a cache is used with the model that made it"),
        }
    }

    /// Does a little of what makes later answers faster; whether more is left.
    pub(crate) fn prepare(&self, team: &Team) -> bool {
        const BYTES: usize = 8 << 20;
        match self {
            Model::Host(weights, _) => {
                weights.pack(team, BYTES);
                !weights.is_packed()
            }
            Model::Card(_) => false,
        }
    }
}

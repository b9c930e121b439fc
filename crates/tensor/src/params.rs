//! Parameters in one flat f32 buffer, so that the optimizer, checkpoints and (later) sharding work on plain slices.
//!
//! They may live on a card ([`Params::to_card`]): then operators compute there, and the slices of the host are copies,
//! made when asked for and uploaded again when written.

use crate::cuda::{Card, CardError, CardParams, DType};
use crate::flat::Flat;
use crate::random::CounterRng;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// How a parameter starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f32,
    },
    /// All ones (norm weights).
    Ones,
    /// All zeros.
    Zeros,
}

/// Name, shape, start and treatment of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamSpec {
    /// Unique name.
    pub name: String,
    /// Sizes of the axes; a matrix is `[out, in]`.
    pub shape: Vec<usize>,
    /// Values before training.
    pub init: Init,
    /// Whether weight decay applies (matrices yes, norms no).
    pub decay: bool,
}

impl ParamSpec {
    /// A parameter that decays if it has two or more axes.
    pub fn new(name: impl Into<String>, shape: &[usize], init: Init) -> Self {
        Self { name: name.into(), shape: shape.to_vec(), init, decay: shape.len() > 1 }
    }

    /// Number of values.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Index of a parameter within its [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(usize);

impl ParamId {
    /// The parameter at this position in [`Params::specs`].
    pub fn new(index: usize) -> Self {
        Self(index)
    }

    /// Position in [`Params::specs`].
    pub fn index(self) -> usize {
        self.0
    }
}

pub(crate) struct LayoutTable {
    pub specs: Vec<ParamSpec>,
    offsets: Vec<usize>,
    by_name: BTreeMap<String, usize>,
}

impl LayoutTable {
    pub fn range(&self, id: ParamId) -> Range<usize> {
        self.offsets[id.0]..self.offsets[id.0 + 1]
    }
    pub fn total(&self) -> usize {
        *self.offsets.last().expect("starts with 0")
    }
}

/// All parameters of a model in one flat buffer.
pub struct Params {
    pub(crate) layout: Arc<LayoutTable>,
    /// Absent where only the card has the newest values.
    flat: OnceLock<Flat>,
    card: Option<CardParams>,
}

impl Params {
    /// Lays the parameters out in order; values are zero until [`Params::initialize`]. Panics if a name occurs twice.
    pub fn new(specs: Vec<ParamSpec>) -> Self {
        let mut offsets = vec![0];
        let mut by_name = BTreeMap::new();
        for (index, spec) in specs.iter().enumerate() {
            offsets.push(offsets[index] + spec.count());
            let earlier = by_name.insert(spec.name.clone(), index);
            assert!(earlier.is_none(), "params: the name {} occurs twice", spec.name);
        }
        let layout = LayoutTable { specs, offsets, by_name };
        let flat = Flat::dense(layout.total()).into();
        Self { layout: Arc::new(layout), flat, card: None }
    }

    /// Moves the values to a card, where operators then compute with activations of the given type: in f32, or in bf16
    /// with f32 values for the optimizer.
    ///
    /// # Errors
    /// The card has not enough memory, or failed.
    pub fn to_card(&mut self, card: &Card, activations: DType) -> Result<(), CardError> {
        self.card = Some(CardParams::new(card, activations, self.flat())?);
        self.flat.take();
        Ok(())
    }

    /// The values on a card, if they are on one, with what the host has written.
    pub fn on_card(&self) -> Option<&CardParams> {
        let card = self.card.as_ref()?;
        card.refresh(|| self.flat());
        Some(card)
    }

    /// Says that the values on the card are about to change: the host's copy is forgotten.
    pub(crate) fn card_changes(&mut self) {
        if self.on_card().is_some() {
            self.flat.take();
        }
    }

    /// Sets every value from its [`Init`] and the seed. A parameter's values depend on the seed and its name only.
    pub fn initialize(&mut self, seed: u64) {
        for index in 0..self.layout.specs.len() {
            let spec = self.layout.specs[index].clone();
            let values = self.value_mut(ParamId(index));
            match spec.init {
                Init::Ones => values.fill(1.0),
                Init::Zeros => values.fill(0.0),
                Init::Normal { std } => {
                    let rng = CounterRng::new(seed, &spec.name);
                    values.par_chunks_mut(4096).enumerate().for_each(|(chunk, values)| {
                        for (i, pair) in values.chunks_mut(2).enumerate() {
                            let (even, odd) = rng.normal_pair((chunk * 4096 + 2 * i) as u64);
                            for (value, normal) in pair.iter_mut().zip([even, odd]) {
                                *value = std * normal as f32;
                            }
                        }
                    });
                }
            }
        }
    }

    /// The parameters in layout order.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.layout.specs
    }

    /// All ids in layout order.
    pub fn ids(&self) -> impl Iterator<Item = ParamId> + use<> {
        (0..self.layout.specs.len()).map(ParamId)
    }

    /// The parameter called `name`.
    pub fn id(&self, name: &str) -> Option<ParamId> {
        self.layout.by_name.get(name).copied().map(ParamId)
    }

    /// Name, shape and treatment of one parameter.
    pub fn spec(&self, id: ParamId) -> &ParamSpec {
        &self.layout.specs[id.0]
    }

    /// Shape of one parameter.
    pub fn shape(&self, id: ParamId) -> &[usize] {
        &self.layout.specs[id.0].shape
    }

    /// Where a parameter lies in [`Params::flat`].
    pub fn range(&self, id: ParamId) -> Range<usize> {
        self.layout.range(id)
    }

    /// Values of one parameter, row-major.
    pub fn value(&self, id: ParamId) -> &[f32] {
        &self.flat()[self.layout.range(id)]
    }

    /// Writable values of one parameter.
    pub fn value_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.layout.range(id);
        &mut self.flat_mut()[range]
    }

    /// All values in layout order.
    pub fn flat(&self) -> &[f32] {
        self.flat.get_or_init(|| {
            let mut flat = Flat::dense(self.count());
            self.card.as_ref().expect("the host or a card has the values").read(&mut flat);
            flat
        })
    }

    /// All values, writable.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        self.flat();
        if let Some(card) = &self.card {
            card.outdate();
        }
        self.flat.get_mut().expect("just made")
    }

    /// Number of values of all parameters.
    pub fn count(&self) -> usize {
        self.layout.total()
    }
}

impl Clone for Params {
    fn clone(&self) -> Self {
        let card = self.on_card().map(CardParams::copied);
        Self { layout: Arc::clone(&self.layout), flat: self.flat.clone(), card }
    }
}

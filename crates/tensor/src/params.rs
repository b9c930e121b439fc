//! Parameters in one flat f32 buffer, in the host's memory or on a card, so that the optimizer, checkpoints and (later) sharding work on plain slices.

use crate::cuda::api::driver::DevicePtr;
use crate::cuda::bodies::{self, Place};
use crate::cuda::{Block, Card, DType, Device, Error};
use crate::flat::Flat;
use crate::random::CounterRng;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    flat: Flat,
    on_card: Option<OnCard>,
}

/// What a card has besides the f32 values.
struct OnCard {
    place: Place,
    /// All values in bf16, which products read; kept by the optimizer. Absent if activations are f32.
    copy: Option<Block>,
    /// Whether it is yet to be made.
    copy_is_old: AtomicBool,
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
        let flat = Flat::dense(layout.total());
        Self { layout: Arc::new(layout), flat, on_card: None }
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
        &self.flat[self.layout.range(id)]
    }

    /// Writable values of one parameter.
    pub fn value_mut(&mut self, id: ParamId) -> &mut [f32] {
        let range = self.layout.range(id);
        &mut self.flat[range]
    }

    /// All values in layout order.
    pub fn flat(&self) -> &[f32] {
        &self.flat
    }

    /// All values, writable.
    pub fn flat_mut(&mut self) -> &mut [f32] {
        &mut self.flat
    }

    /// Moves the values to a device, where everything computed with them will lie too: activations in `dtype` on a card,
    /// f32 on the CPU. The host goes on seeing the values ([`Params::value`], [`Params::flat`]) as a copy made when it
    /// looks, and may change them. The error says why there is no such card, or that it has no room.
    pub fn to_device(&mut self, device: Device, dtype: DType) -> Result<(), Error> {
        match device {
            Device::Cpu if self.on_card.is_some() => {
                Err(Error::Unfit("parameters do not come back from a card: clone them".into()))
            }
            Device::Cpu if dtype == DType::F32 => Ok(()),
            Device::Cpu => {
                Err(Error::Unfit("the CPU computes in f32: leave `dtype` out, or use a card".into()))
            }
            Device::Cuda(number) => self.to_card(Card::open(number)?, dtype),
        }
    }

    /// Moves the values to a card. The kernels for `dtype` are compiled now, if they are not in the user's cache.
    pub fn to_card(&mut self, card: Card, dtype: DType) -> Result<(), Error> {
        card.prepare(dtype)?;
        self.flat.move_to(card)?;
        let copy = (dtype == DType::Bf16).then(|| Block::new(card, 2 * self.count())).transpose()?;
        self.on_card =
            Some(OnCard { place: Place { card, dtype }, copy, copy_is_old: AtomicBool::new(true) });
        Ok(())
    }

    /// The card that the values lie on.
    pub fn card(&self) -> Option<Card> {
        self.flat.card()
    }

    /// The buffer of all values: other buffers are made like it.
    pub fn buffer(&self) -> &Flat {
        &self.flat
    }

    /// Card and type of activations.
    pub(crate) fn place(&self) -> Option<Place> {
        self.on_card.as_ref().map(|on_card| on_card.place)
    }

    /// Address of a parameter's f32 values on the card.
    pub(crate) fn at(&self, id: ParamId) -> DevicePtr {
        let (at, sent) = self.flat.at();
        if sent {
            self.on_card.as_ref().expect("on a card").copy_is_old.store(true, Ordering::Release);
        }
        at + 4 * self.layout.range(id).start as u64
    }

    /// Address of a parameter's values in the type of activations.
    pub(crate) fn matrix_at(&self, id: ParamId) -> DevicePtr {
        let master = self.at(id);
        let on_card = self.on_card.as_ref().expect("on a card");
        let Some(copy) = &on_card.copy else { return master };
        if on_card.copy_is_old.swap(false, Ordering::AcqRel) {
            bodies::cast_to_bf16(on_card.place, self.flat.at().0, copy.at(), self.count());
        }
        copy.at() + 2 * self.layout.range(id).start as u64
    }

    /// Addresses that the optimizer writes: f32 values, and the copy in bf16.
    pub(crate) fn written_at(&mut self) -> (DevicePtr, Option<DevicePtr>) {
        if let Some(first) = self.ids().next() {
            self.matrix_at(first);
        }
        let copy = self.on_card.as_ref().and_then(|on_card| on_card.copy.as_ref()).map(Block::at);
        (self.flat.at_mut(), copy)
    }

    /// Number of values of all parameters.
    pub fn count(&self) -> usize {
        self.layout.total()
    }
}

/// The copy lies in the host's memory.
impl Clone for Params {
    fn clone(&self) -> Self {
        Self { layout: Arc::clone(&self.layout), flat: self.flat.clone(), on_card: None }
    }
}

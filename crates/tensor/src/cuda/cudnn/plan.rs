//! A graph made ready to run: cuDNN's choice of an engine, and the places of its tensors.

use super::attention::{Problem, Way, build};
use super::backend::{Backend, Descriptor};
use super::graph::{Graph, Role};
use super::names::{HEUR_MODE_A, KNOB_STAGES, attribute, kind};
use crate::cuda::CardError;
use crate::cuda::calls::{Address, Handle};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

/// The first version whose engines for Hopper can add to the gradient of queries in the order of the tiles: 9.26.
const ORDERED: usize = 92_600;
/// What their knob `STAGES` is set to for it.
const ORDERED_STAGES: i64 = 4;

/// Configurations that are tried, and knobs that one has.
const MOST_CONFIGS: usize = 16;
const MOST_KNOBS: usize = 64;

/// What plans are made for.
pub(super) enum Target<'a> {
    /// The card of a handle.
    Card(Handle),
    /// A card that need not be there, by its properties (a finalised `DEVICEPROP`).
    Properties(&'a Descriptor),
}

/// A graph with an engine that runs it.
pub(super) struct Plan {
    plan: Descriptor,
    /// Bytes that it works in.
    pub workspace: usize,
    /// cuDNN's number of the engine.
    pub engine: i64,
    outside: Vec<Role>,
    /// The values of what is given by value: `Scale`, `Least` and `One`.
    numbers: Box<[f32; 3]>,
    _graph: Graph,
    _kept: Vec<Descriptor>,
}

/// Where the tensors of a graph lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places([Address; Role::COUNT]);

impl Places {
    pub const fn none() -> Self {
        Self([0; Role::COUNT])
    }

    pub fn set(&mut self, role: Role, address: Address) -> &mut Self {
        self.0[role as usize] = address;
        self
    }

    /// Moves what has a place.
    pub fn shift(&mut self, role: Role, bytes: u64) {
        let place = &mut self.0[role as usize];
        *place += if *place == 0 { 0 } else { bytes };
    }
}

impl Target<'_> {
    /// Says what a descriptor is for.
    fn mark(
        &self,
        descriptor: &Descriptor,
        handle: Option<super::names::Attribute>,
        properties: Option<super::names::Attribute>,
    ) -> Result<(), CardError> {
        match (self, handle, properties) {
            (Target::Card(card), Some(attribute), _) => descriptor.set(attribute, &[*card]).map(drop),
            (Target::Properties(properties), _, Some(attribute)) => {
                descriptor.link(attribute, &[properties]).map(drop)
            }
            _ => Ok(()),
        }
    }
}

impl Plan {
    /// The plan that cuDNN thinks the fastest of those that work in at most `most` bytes.
    pub fn new(
        backend: &Arc<Backend>,
        target: &Target,
        problem: Problem,
        way: Way,
        most: usize,
    ) -> Result<Self, CardError> {
        let ordered = way == Way::Sums { ordered: true };
        if ordered && backend.version < ORDERED {
            return Err(none(format!("a fixed order of sums needs cuDNN 9.26, this is {}", backend.version)));
        }
        let mut graph = Graph::new(backend);
        build(&mut graph, problem, way)?;
        let whole = graph.descriptor()?;
        target.mark(&whole, Some(attribute::OPERATIONGRAPH_HANDLE), None)?;
        whole.finalize()?;
        let heuristic = Descriptor::new(backend, kind::ENGINEHEUR)?;
        heuristic.link(attribute::ENGINEHEUR_OPERATION_GRAPH, &[&whole])?;
        heuristic.set(attribute::ENGINEHEUR_MODE, &[HEUR_MODE_A])?;
        target.mark(&heuristic, None, Some(attribute::ENGINEHEUR_DEVICEPROP))?;
        heuristic.finalize()?;
        let mut last = none("cuDNN has no engine for it".into());
        for found in heuristic.descriptors(attribute::ENGINEHEUR_RESULTS, kind::ENGINECFG, MOST_CONFIGS)? {
            let tried = Config::read(found)
                .and_then(|config| if ordered { config.ordered(backend, target, &whole) } else { Ok(config) })
                .and_then(|config| config.plan(backend, target));
            match tried {
                Ok((_, _, workspace, _)) if workspace > most => {
                    last = none(format!("it needs {workspace} bytes to work in, more than {most}"));
                }
                Ok((plan, engine, workspace, mut kept)) => {
                    kept.extend([whole, heuristic]);
                    let scale = 1.0 / (problem.head_dim as f32).sqrt();
                    let numbers = Box::new([scale, f32::NEG_INFINITY, 1.0]);
                    let outside = graph.outside().to_vec();
                    return Ok(Self {
                        plan,
                        workspace,
                        engine,
                        outside,
                        numbers,
                        _graph: graph,
                        _kept: kept,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks for it on the stream of a handle. Every tensor must have a place.
    pub fn run(
        &self,
        backend: &Arc<Backend>,
        handle: Handle,
        places: &Places,
        workspace: Address,
    ) -> Result<(), CardError> {
        let ids: Vec<i64> = self.outside.iter().map(|role| *role as i64).collect();
        let pointers: Vec<*const c_void> =
            self.outside.iter().map(|role| self.place(*role, places)).collect();
        let pack = Descriptor::new(backend, kind::VARIANT_PACK)?;
        pack.set(attribute::VARIANT_PACK_UNIQUE_IDS, &ids)?
            .set(attribute::VARIANT_PACK_DATA_POINTERS, &pointers)?
            .set(attribute::VARIANT_PACK_WORKSPACE, &[workspace as *const c_void])?
            .finalize()?;
        let execute = &backend.calls.execute;
        // SAFETY: plan and pack are finalised; the addresses are those of live memory, as large as the problem says.
        let code = unsafe { (execute.call)(handle, self.plan.handle(), pack.handle()) };
        backend.check(execute.name, code, || "attention".into())
    }

    fn place(&self, role: Role, places: &Places) -> *const c_void {
        match role {
            Role::Scale | Role::Least | Role::One => {
                ptr::from_ref(&self.numbers[role as usize - Role::Scale as usize]).cast()
            }
            _ => {
                let address = places.0[role as usize];
                assert_ne!(address, 0, "{role:?} has a place");
                address as *const c_void
            }
        }
    }
}

/// An engine, and how its knobs are set.
struct Config {
    config: Descriptor,
    engine: i64,
    kept: Vec<Descriptor>,
}

impl Config {
    fn read(config: Descriptor) -> Result<Self, CardError> {
        let engine = config.descriptors(attribute::ENGINECFG_ENGINE, kind::ENGINE, 1)?;
        let index = engine.first().map_or(Ok(-1), |e| e.number(attribute::ENGINE_GLOBAL_INDEX))?;
        Ok(Self { config, engine: index, kept: engine })
    }

    /// The same engine with its sums in order; an error if it cannot do so.
    fn ordered(self, backend: &Arc<Backend>, target: &Target, graph: &Descriptor) -> Result<Self, CardError> {
        let engine = Descriptor::new(backend, kind::ENGINE)?;
        engine.link(attribute::ENGINE_OPERATION_GRAPH, &[graph])?;
        engine.set(attribute::ENGINE_GLOBAL_INDEX, &[self.engine])?;
        target.mark(&engine, None, Some(attribute::ENGINE_DEVICEPROP))?;
        engine.finalize()?;
        let mut knobs = vec![(KNOB_STAGES, ORDERED_STAGES)];
        for choice in
            self.config.descriptors(attribute::ENGINECFG_KNOB_CHOICES, kind::KNOB_CHOICE, MOST_KNOBS)?
        {
            let knob = choice.number::<i32>(attribute::KNOB_CHOICE_KNOB_TYPE)?;
            if knob != KNOB_STAGES {
                knobs.push((knob, choice.number(attribute::KNOB_CHOICE_KNOB_VALUE)?));
            }
        }
        let mut choices = Vec::new();
        for (knob, value) in knobs {
            let choice = Descriptor::new(backend, kind::KNOB_CHOICE)?;
            choice
                .set(attribute::KNOB_CHOICE_KNOB_TYPE, &[knob])?
                .set(attribute::KNOB_CHOICE_KNOB_VALUE, &[value])?
                .finalize()?;
            choices.push(choice);
        }
        let config = Descriptor::new(backend, kind::ENGINECFG)?;
        config.link(attribute::ENGINECFG_ENGINE, &[&engine])?;
        config.link(attribute::ENGINECFG_KNOB_CHOICES, &choices.iter().collect::<Vec<_>>())?;
        config.finalize()?;
        choices.push(engine);
        Ok(Self { config, engine: self.engine, kept: choices })
    }

    /// The plan, the engine's number, the bytes it works in, and what must stay alive.
    fn plan(
        self,
        backend: &Arc<Backend>,
        target: &Target,
    ) -> Result<(Descriptor, i64, usize, Vec<Descriptor>), CardError> {
        let plan = Descriptor::new(backend, kind::EXECUTION_PLAN)?;
        let handle = attribute::EXECUTION_PLAN_HANDLE;
        target.mark(&plan, Some(handle), Some(attribute::EXECUTION_PLAN_DEVICEPROP))?;
        plan.link(attribute::EXECUTION_PLAN_ENGINE_CONFIG, &[&self.config])?.finalize()?;
        let workspace: i64 = plan.number(attribute::EXECUTION_PLAN_WORKSPACE_SIZE)?;
        let Self { config, engine, mut kept } = self;
        kept.push(config);
        Ok((plan, engine, usize::try_from(workspace).unwrap_or(0), kept))
    }
}

/// An error for what cuDNN does not offer.
fn none(text: String) -> CardError {
    CardError::Call { call: "cudnnBackendFinalize", code: 3000, text }
}

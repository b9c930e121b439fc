//! Attention by cuDNN, found at run time: the forward pass with its statistics and the backward pass, in bf16 with heads of
//! 64 and 128 columns, causal, grouped, packed documents. Herd's own kernels are the fallback, and the reference.
//!
//! Used is cuDNN 9 from 9.11 on; 9.15.1 to 9.28.1 were seen to take the graphs. Its backward pass adds to the gradient of
//! queries in an order that is chance, which would break the promise of the same bits at every run, so only what has a fixed
//! order is used: from 9.26 on an engine for Hopper that keeps the order of the tiles; before that, for sequences of equal length, the gradient of the scores
//! written to memory, in parts. Where neither is offered, Herd's kernels compute the backward pass from cuDNN's statistics.
//! `HERD_CUDNN` says otherwise: `0` turns cuDNN off, `any-order` allows sums whose order is chance.
//!
//! Nothing is believed: before cuDNN is used for a class of problems, a small one is computed by both (`trust`). Known
//! traps: a graph's mode is left for cuDNN to find; statistics are packed as rows are, since other layouts fail before 9.26
//! and give gradients of zero from 9.22 to 9.26.
//!
//! `backend` opens the library, `graph` and `attention` describe the computation, `plan` lets cuDNN choose an engine, `batch`
//! and `fused` bind a batch to it. [`compile_without_card`] is how the graphs are checked against the real library.

mod attention;
mod backend;
mod batch;
mod deviceless;
mod fused;
mod graph;
mod names;
mod plan;
mod trust;

pub(crate) use batch::CardBatch;
pub use deviceless::{Compiled, compile_without_card};
pub(crate) use fused::{Fused, Gradients};
pub use trust::CudnnReport;

use super::calls::Handle;
use super::card::lock;
use super::pass::Command;
use super::{Card, CardBuffer, CardError, Kind, Library};
use attention::{Problem, Way};
use backend::Backend;
use plan::{Places, Plan, Target};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use trust::{Class, Verdict};

/// The oldest version that is used: 9.11. In 9.10 attention had errors.
const OLDEST: usize = 91_100;
/// Bytes that a plan may work in.
const WORKSPACE: usize = 1 << 30;

/// What attention may use cuDNN for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudnnUse {
    /// Nothing.
    Off,
    /// Whatever has the same bits at every run.
    FixedOrder,
    /// Also a backward pass whose gradient of queries is summed in an order that is chance: faster, but the last bits differ
    /// from run to run.
    AnyOrder,
}

impl CudnnUse {
    /// What `HERD_CUDNN` says: `0`, `any-order`, or anything else for [`CudnnUse::FixedOrder`].
    pub fn of_environment() -> Self {
        match std::env::var("HERD_CUDNN").as_deref() {
            Ok("0") => CudnnUse::Off,
            Ok("any-order") => CudnnUse::AnyOrder,
            _ => CudnnUse::FixedOrder,
        }
    }
}

/// cuDNN on a card, opened when it is first needed.
pub(super) struct Cudnn {
    allowed: CudnnUse,
    folders: Vec<PathBuf>,
    state: State,
    workspace: usize,
    /// What was said already.
    said: HashSet<String>,
}

enum State {
    Unopened,
    /// Why there is none.
    Absent(String),
    Open(Box<Open>),
}

struct Open {
    plans: Vec<Plan>,
    /// Plans of problems, or why there is none.
    known: HashMap<(Problem, Way), Result<usize, String>>,
    verdicts: HashMap<Class, Verdict>,
    handle: Handle,
    backend: Arc<Backend>,
    path: Option<PathBuf>,
}

// SAFETY: cuDNN's handle may be used by one thread at a time; the owner is behind a lock.
unsafe impl Send for Open {}

/// A plan's run: everything that the card is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Execution {
    plan: usize,
    places: Places,
    workspace: u64,
}

impl Cudnn {
    pub fn new(folders: &[PathBuf]) -> Self {
        Self {
            allowed: CudnnUse::of_environment(),
            folders: folders.to_vec(),
            state: State::Unopened,
            workspace: WORKSPACE,
            said: HashSet::new(),
        }
    }

    /// Destroys what cuDNN made; the context is set and the stream is done.
    pub fn close(&mut self) {
        let State::Open(mut open) = std::mem::replace(&mut self.state, State::Unopened) else { return };
        open.plans.clear();
        // SAFETY: the handle is not used any more.
        let _ = unsafe { (open.backend.calls.destroy_handle.call)(open.handle) };
    }

    /// Leaves what cuDNN made to the end of the process: the driver is gone.
    pub fn forget(&mut self) {
        std::mem::forget(std::mem::replace(&mut self.state, State::Unopened));
    }

    /// The context is set.
    fn open(&mut self, stream: Handle) -> Result<&mut Open, &str> {
        if matches!(self.state, State::Unopened) {
            self.state = match Open::new(&self.folders, stream) {
                Ok(open) => State::Open(Box::new(open)),
                Err(error) => State::Absent(reason(error)),
            };
        }
        match &mut self.state {
            State::Open(open) => Ok(open),
            State::Absent(reason) => Err(reason),
            State::Unopened => unreachable!("it was opened above"),
        }
    }
}

impl Open {
    fn new(folders: &[PathBuf], stream: Handle) -> Result<Self, CardError> {
        let library = Library::open_in(Kind::Cudnn, folders)?;
        let backend = Backend::of(&library)?;
        if !(OLDEST..100_000).contains(&backend.version) {
            let text = format!("it is {}, Herd uses 9.11 and later 9s", dotted(backend.version));
            return Err(CardError::Call { call: "cudnnGetVersion", code: 3000, text });
        }
        let mut handle = ptr::null_mut();
        let (create, set_stream) = (&backend.calls.create, &backend.calls.set_stream);
        // SAFETY: the pointer is to a live variable.
        let code = unsafe { (create.call)(&mut handle) };
        backend.check(create.name, code, || "a handle".into())?;
        // SAFETY: the handle is new, the stream alive as long as the card.
        let code = unsafe { (set_stream.call)(handle, stream) };
        backend.check(set_stream.name, code, || "the card's stream".into())?;
        let (plans, known, verdicts) = Default::default();
        Ok(Self { plans, known, verdicts, handle, backend, path: library.path() })
    }

    fn plan(&mut self, problem: Problem, way: Way, most: usize) -> Result<usize, String> {
        if let Some(known) = self.known.get(&(problem, way)) {
            return known.clone();
        }
        let plan = Plan::new(&self.backend, &Target::Card(self.handle), problem, way, most);
        let made = plan.map_err(reason).map(|plan| {
            self.plans.push(plan);
            self.plans.len() - 1
        });
        self.known.insert((problem, way), made.clone());
        made
    }
}

/// Why something was refused, without advice: Herd's kernels compute it instead.
fn reason(error: CardError) -> String {
    match error {
        CardError::Call { call, text, .. } => format!("{call}: {text}"),
        other => other.to_string(),
    }
}

/// cuDNN 9.15.1 says 91501.
fn dotted(version: usize) -> String {
    format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)
}

/// cuDNN on this card.
impl Card {
    /// Says what attention may use cuDNN for from now on; at first it is what `HERD_CUDNN` says.
    pub fn use_cudnn(&self, allowed: CudnnUse) {
        lock(&self.0.cudnn).allowed = allowed;
    }

    /// What attention may use cuDNN for.
    pub fn cudnn_use(&self) -> CudnnUse {
        lock(&self.0.cudnn).allowed
    }

    /// Limits the memory that cuDNN's plans may work in, 1 GiB at first. Plans that are made already stay.
    pub fn limit_cudnn_workspace(&self, bytes: usize) {
        lock(&self.0.cudnn).workspace = bytes;
    }

    fn cudnn_workspace(&self) -> usize {
        lock(&self.0.cudnn).workspace
    }

    /// Calls `f` with cuDNN if it is allowed and there.
    fn with_cudnn<T>(&self, f: impl FnOnce(&mut Open, usize) -> T) -> Option<T> {
        let mut cudnn = lock(&self.0.cudnn);
        if cudnn.allowed == CudnnUse::Off || self.enter().is_err() {
            return None;
        }
        let workspace = cudnn.workspace;
        let stream = self.0.stream.turn();
        cudnn.open(*stream).ok().map(|open| f(open, workspace))
    }

    fn cudnn_version(&self) -> Option<usize> {
        self.with_cudnn(|open, _| open.backend.version)
    }

    /// Says something about cuDNN, once.
    fn note_of_cudnn(&self, text: impl FnOnce(&str) -> String) {
        let version = self.cudnn_version().map_or_else(|| "?".into(), dotted);
        let text = text(&version);
        if lock(&self.0.cudnn).said.insert(text.clone()) {
            eprintln!("note: {text}");
        }
    }

    fn plan_of(&self, problem: Problem, way: Way) -> Result<usize, String> {
        let made = self.with_cudnn(|open, most| open.plan(problem, way, most));
        made.unwrap_or_else(|| Err("there is no cuDNN".into()))
    }

    fn has_plan(&self, problem: Problem, way: Way) -> bool {
        self.plan_of(problem, way).is_ok()
    }

    /// Asks for a plan's run.
    fn run_plan(&self, problem: Problem, way: Way, places: Places) -> Result<(), CardError> {
        let failed = |text| CardError::Call { call: "a plan of attention", code: 3000, text };
        let plan = self.plan_of(problem, way).map_err(failed)?;
        let bytes = self.with_cudnn(|open, _| open.plans[plan].workspace).unwrap_or(0);
        let workspace = CardBuffer::stale(self, bytes.max(1))?;
        self.ask(Command::Attention(Execution { plan, places, workspace: workspace.address() }), &[])
    }

    /// Asks the stream for it.
    pub(super) fn execute(&self, run: &Execution) -> Result<(), CardError> {
        let asked = self.with_cudnn(|open, _| {
            open.plans[run.plan].run(&open.backend, open.handle, &run.places, run.workspace)
        });
        let gone =
            || CardError::Call { call: "cudnnBackendExecute", code: 3000, text: "cuDNN is off".into() };
        asked.unwrap_or_else(|| Err(gone()))
    }
}

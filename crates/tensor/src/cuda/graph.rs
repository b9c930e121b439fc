//! Graphs: work of the stream that was captured once, and is asked for again as a whole, by one call.
//!
//! What is captured are kernels, copies and clearings on the card, and matrix products, with their arguments: the
//! addresses, not what lies there. So a graph computes with what its inputs hold whenever it is launched.

use super::calls::{Address, Handle};
use super::card::{driver, lock};
use super::{Card, CardError};
use std::ptr;
use std::sync::atomic::Ordering;

/// From `cuda.h`: CUstreamCaptureMode. Meanwhile memory may be asked of the driver, and kernels may be loaded.
const RELAXED: u32 = 2;

/// Work of a card that can be launched as often as one likes.
///
/// Memory that the captured work took and gave back is the graph's own until it is dropped. Buffers that were there before,
/// or that outlive the capture, are the caller's to keep: a launch writes to their places in any case.
pub struct Graph {
    card: Card,
    name: String,
    executable: Executable,
    kept: Vec<(Address, usize)>,
}

/// What was captured, without its card; whoever has it destroys it.
pub(super) struct Executable {
    pub handle: Handle,
    nodes: usize,
}

// SAFETY: the driver's handle may be used from any thread that has set the context, which every method does.
unsafe impl Send for Graph {}
// SAFETY: as above; nothing changes after it was made.
unsafe impl Sync for Graph {}

impl Card {
    /// Captures what `work` asks of this card, which does not run yet; errors call the graph by `name`. Until it returns no
    /// other thread may ask this card for anything.
    ///
    /// # Errors
    /// `work` failed, or asked for something that cannot be part of a graph: an upload, a download, or waiting for the card.
    pub fn capture(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), CardError>,
    ) -> Result<Graph, CardError> {
        // What a pass has collected comes before.
        self.settle()?;
        let named = |error| CardError::Graph { name: name.into(), error: Box::new(error) };
        let mut kept = Vec::new();
        let executable = self.capture_into(&mut kept, work).map_err(named)?;
        Ok(Graph { card: self.clone(), name: name.into(), executable, kept })
    }

    /// The same for work that takes no memory, without a name.
    pub(super) fn capture_list(
        &self,
        work: impl FnOnce() -> Result<(), CardError>,
    ) -> Result<Executable, CardError> {
        self.capture_into(&mut Vec::new(), work)
    }

    fn capture_into(
        &self,
        kept: &mut Vec<(Address, usize)>,
        work: impl FnOnce() -> Result<(), CardError>,
    ) -> Result<Executable, CardError> {
        let mut capture = Capture::begin(self)?;
        work()?;
        let executable = capture.end()?;
        kept.extend(lock(&self.0.arena).keep_noted());
        Ok(executable)
    }

    pub(super) fn launch_executable(&self, executable: &Executable) -> Result<(), CardError> {
        self.not_captured("another graph")?;
        self.enter()?;
        driver!(self.0.calls, graph_launch(executable.handle, *self.0.stream.turn()))
    }

    /// Destroys what was captured; a launch that is under way is finished first: the driver sees to that.
    pub(super) fn destroy(&self, executable: &Executable) -> Result<(), CardError> {
        self.enter()?;
        driver!(self.0.calls, graph_exec_destroy(executable.handle))
    }
}

/// A capture under way; dropped, it ends and leaves nothing behind.
struct Capture<'a> {
    card: &'a Card,
    open: bool,
}

impl<'a> Capture<'a> {
    fn begin(card: &'a Card) -> Result<Self, CardError> {
        if card.0.capturing.swap(true, Ordering::Relaxed) {
            return Err(CardError::NotInGraph("another graph"));
        }
        let mut capture = Self { card, open: false };
        card.enter()?;
        driver!(card.0.calls, capture_begin(*card.0.stream.turn(), RELAXED))?;
        capture.open = true;
        lock(&card.0.arena).note();
        Ok(capture)
    }

    /// What was captured, to be destroyed by the caller.
    fn close(&mut self) -> Result<Handle, CardError> {
        let mut graph = ptr::null_mut();
        self.open = false;
        driver!(self.card.0.calls, capture_end(*self.card.0.stream.turn(), &mut graph))?;
        Ok(graph)
    }

    fn end(&mut self) -> Result<Executable, CardError> {
        let calls = &self.card.0.calls;
        let captured = self.close()?;
        let (mut handle, mut nodes) = (ptr::null_mut(), 0);
        let made = driver!(calls, graph_nodes(captured, ptr::null_mut(), &mut nodes))
            .and_then(|()| driver!(calls, graph_instantiate(&mut handle, captured, 0)));
        let _ = driver!(calls, graph_destroy(captured));
        made.map(|()| Executable { handle, nodes })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        if self.open
            && let Ok(captured) = self.close()
        {
            let _ = driver!(self.card.0.calls, graph_destroy(captured));
        }
        lock(&self.card.0.arena).forget_noted();
        self.card.0.capturing.store(false, Ordering::Relaxed);
    }
}

impl Graph {
    /// Asks for everything that was captured, in its order; the host goes on.
    ///
    /// # Errors
    /// The card failed.
    pub fn launch(&self) -> Result<(), CardError> {
        self.card
            .settle()
            .and_then(|()| self.card.launch_executable(&self.executable))
            .map_err(|error| CardError::Graph { name: self.name.clone(), error: Box::new(error) })
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many kernels, copies and clearings it holds.
    pub fn nodes(&self) -> usize {
        self.executable.nodes
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.card.destroy(&self.executable);
        self.kept.iter().for_each(|(address, bytes)| self.card.give(*address, *bytes));
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Graph(`{}`, {} nodes)", self.name, self.nodes())
    }
}

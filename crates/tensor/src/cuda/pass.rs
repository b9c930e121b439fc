//! Passes: work that repeats from step to step, such as one micro-batch forward and backward.
//!
//! While a pass is open, what operators ask of the card is collected instead of asked for. When the pass ends the list is
//! compared with those that were asked for before: kernels, grids, arguments, products and all addresses. The same list for
//! the second time is captured as a graph, and from then on one call asks for all of it; a list that is new is asked for
//! piece by piece. So nothing depends on a promise that a step repeats: it is looked at, each time, before the card works.
//!
//! What differs from step to step without being an address or a size, such as tokens, has to lie in the card's memory:
//! [`CardBuffer::input`](super::CardBuffer::input) puts it into the pass's `feed`, which is uploaded before the list is asked
//! for.

use super::calls::{Address, Handle};
use super::card::{driver, lock};
use super::cudnn::Execution;
use super::feed::Feed;
use super::graph::Executable;
use super::products::Product;
use super::{Card, CardError};
use std::ptr;

/// Lists that are remembered; the one not asked for the longest is forgotten.
const REMEMBERED: usize = 16;
/// Lists with fewer commands are asked for piece by piece.
const LEAST: usize = 8;

/// Something asked of the stream. Arguments of kernels are words of the list that it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Command {
    Kernel {
        function: Handle,
        /// Blocks along x and y, threads of a block, bytes of its shared memory.
        grid: [u32; 4],
        /// Its first word and how many it has.
        arguments: (usize, usize),
        /// Whether it is one of [`DEPENDENT`](super::DEPENDENT).
        dependent: bool,
    },
    Clear {
        address: Address,
        bytes: usize,
    },
    Copy {
        from: Address,
        to: Address,
        bytes: usize,
    },
    Product(Product),
    Attention(Execution),
}

/// Commands in order.
#[derive(Default, PartialEq)]
struct List {
    commands: Vec<Command>,
    words: Vec<u64>,
}

/// A list that was asked for.
struct Known {
    list: List,
    graph: Option<Executable>,
    /// The pass it was last asked for in.
    last: u64,
}

/// How passes were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassUsage {
    /// Lists that were asked for: one for each pass, and one more for each wait or upload inside one.
    pub lists: u64,
    /// Those of them that were launched as graphs.
    pub launched: u64,
    /// Graphs that were captured.
    pub captured: u64,
    /// Whether lists that repeat become graphs.
    pub on: bool,
    /// Why a list could not be captured, if one could not; graphs are off since.
    pub refused: Option<String>,
}

#[derive(Default)]
pub(super) struct Passes {
    open: Option<List>,
    /// Number of the open or last pass, from 1.
    number: u64,
    known: Vec<Known>,
    pub feed: Feed,
    usage: PassUsage,
}

/// A pass that is open until it is run.
#[must_use = "what is asked for in a pass is asked of the card by `run`"]
pub struct Pass<'a> {
    card: &'a Card,
    /// Whether another pass is open around it.
    inner: bool,
}

impl Card {
    /// Opens a pass: what is asked of this card from now on is collected until the pass is run. Waiting for the card and
    /// uploads to places of their own work as ever, but take what came before them out of the pass.
    ///
    /// Values of [`CardBuffer::input`](super::CardBuffer::input) are there until the pass is run, and no longer.
    pub fn pass(&self) -> Pass<'_> {
        let mut passes = lock(&self.0.passes);
        let inner = passes.open.is_some();
        if !inner {
            passes.open = Some(List::default());
            passes.number += 1;
        }
        Pass { card: self, inner }
    }

    /// Turns graphs on or off; they are on at first, unless `HERD_CUDA_GRAPHS` is 0.
    pub fn set_graphs(&self, on: bool) {
        lock(&self.0.passes).usage.on = on;
    }

    /// How passes were asked for so far.
    pub fn passes(&self) -> PassUsage {
        lock(&self.0.passes).usage.clone()
    }

    /// Forgets what was asked for, since it would be asked for in another way now.
    pub(super) fn forget_lists(&self) {
        let graphs: Vec<Executable> =
            lock(&self.0.passes).known.drain(..).filter_map(|known| known.graph).collect();
        for graph in graphs {
            let _ = self.destroy(&graph);
        }
    }

    /// The number of the open pass.
    pub(super) fn open_pass(&self) -> Option<u64> {
        let passes = lock(&self.0.passes);
        passes.open.as_ref().map(|_| passes.number)
    }

    /// Puts values into the feed of the open pass, if there is one: where they are, and the pass's number.
    pub(super) fn feed(&self, values: &[u8], room: usize) -> Option<(Address, u64)> {
        let mut passes = lock(&self.0.passes);
        passes.open.as_ref()?;
        Some((passes.feed.put(values, room)?, passes.number))
    }

    /// Asks for something, or collects it if a pass is open.
    pub(super) fn ask(&self, command: Command, words: &[u64]) -> Result<(), CardError> {
        let mut passes = lock(&self.0.passes);
        if let Some(list) = &mut passes.open
            && !self.is_capturing()
        {
            let command = match command {
                Command::Kernel { function, grid, arguments: (_, count), dependent } => {
                    Command::Kernel { function, grid, arguments: (list.words.len(), count), dependent }
                }
                other => other,
            };
            list.commands.push(command);
            list.words.extend_from_slice(words);
            return Ok(());
        }
        drop(passes);
        self.issue(&command, words)
    }

    /// Asks for what the open pass has collected so far.
    pub(super) fn settle(&self) -> Result<(), CardError> {
        let mut passes = lock(&self.0.passes);
        match passes.open.take() {
            Some(list) => {
                passes.open = Some(List::default());
                self.ask_for(&mut passes, list)
            }
            None => Ok(()),
        }
    }

    /// Asks for a list, as a graph if it is known.
    fn ask_for(&self, passes: &mut Passes, list: List) -> Result<(), CardError> {
        passes.feed.upload(self)?;
        if list.commands.is_empty() {
            return Ok(());
        }
        let number = passes.number;
        passes.usage.lists += 1;
        if !passes.usage.on || list.commands.len() < LEAST {
            return self.issue_all(&list);
        }
        let Some(known) = passes.known.iter_mut().find(|known| known.list == list) else {
            self.issue_all(&list)?;
            return passes.remember(list).map_or(Ok(()), |graph| self.destroy(&graph));
        };
        known.last = number;
        if known.graph.is_none() {
            // It has run once, so everything it needs is loaded.
            match self.capture_list(|| self.issue_all(&list)) {
                Ok(graph) => {
                    known.graph = Some(graph);
                    passes.usage.captured += 1;
                }
                Err(error) => {
                    passes.usage.refused = Some(error.to_string());
                    passes.usage.on = false;
                    return self.issue_all(&list);
                }
            }
        }
        let graph = known.graph.as_ref().expect("just made if it was not there");
        passes.usage.launched += 1;
        self.launch_executable(graph)
    }

    fn issue_all(&self, list: &List) -> Result<(), CardError> {
        let List { commands, words } = list;
        commands.iter().try_for_each(|command| self.issue(command, words))
    }

    /// Asks the stream.
    fn issue(&self, command: &Command, words: &[u64]) -> Result<(), CardError> {
        self.enter()?;
        let (calls, stream) = (&self.0.calls, &self.0.stream);
        match *command {
            Command::Kernel { function, grid, arguments: (first, count), dependent } => {
                let words = words[first..first + count].iter();
                let mut pointers: Vec<_> = words.map(|word| ptr::from_ref(word).cast_mut().cast()).collect();
                stream.launch(calls, function, grid, pointers.as_mut_ptr(), dependent)
            }
            Command::Clear { address, bytes } => driver!(calls, set_bytes(address, 0, bytes, *stream.turn())),
            Command::Copy { from, to, bytes } => driver!(calls, copy(to, from, bytes, *stream.turn())),
            Command::Product(ref product) => self.issue_product(product),
            Command::Attention(ref run) => self.execute(run),
        }
    }
}

impl Passes {
    pub fn new() -> Self {
        let off = std::env::var_os("HERD_CUDA_GRAPHS").is_some_and(|value| value == "0");
        Self { usage: PassUsage { on: !off, ..PassUsage::default() }, ..Self::default() }
    }

    /// All graphs, for the end.
    pub fn executables(&mut self) -> impl Iterator<Item = Handle> {
        self.known.drain(..).filter_map(|known| known.graph).map(|graph| graph.handle)
    }

    /// Remembers a list. The graph of the one that is forgotten for it.
    fn remember(&mut self, list: List) -> Option<Executable> {
        let oldest = (0..self.known.len()).min_by_key(|i| self.known[*i].last);
        let forgotten = oldest.filter(|_| self.known.len() == REMEMBERED).map(|i| self.known.swap_remove(i));
        self.known.push(Known { list, graph: None, last: self.number });
        forgotten?.graph
    }
}

impl Pass<'_> {
    /// Asks for what was collected, and ends the pass. Nothing waits for the card.
    ///
    /// # Errors
    /// The card failed.
    pub fn run(mut self) -> Result<(), CardError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), CardError> {
        // The end of what surrounds it is the end of this one.
        if std::mem::replace(&mut self.inner, true) {
            return Ok(());
        }
        let mut passes = lock(&self.card.0.passes);
        let list = passes.open.take().unwrap_or_default();
        self.card.ask_for(&mut passes, list)?;
        passes.feed.end(self.card)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        match std::thread::panicking() {
            // What an operator that failed leaves behind is worth nothing.
            true if !self.inner => lock(&self.card.0.passes).open = None,
            true => {}
            false => {
                let _ = self.end();
            }
        }
    }
}

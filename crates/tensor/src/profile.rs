//! Where the time of a step goes: operators leave spans while somebody records, and cost one thread-local look
//! otherwise.
//!
//! Only the thread that called [`record`] is listened to. Operators are called from one thread and share their work
//! out themselves, so a span lasts as long as its operator does on all threads.
//!
//! ```
//! use herd_tensor::profile;
//!
//! profile::record();
//! {
//!     let _outer = profile::span("outer");
//!     let _inner = profile::span("inner");
//! }
//! let spans = profile::take();
//! assert_eq!((spans[0].name, spans[0].depth), ("outer", 0));
//! assert_eq!((spans[1].name, spans[1].depth), ("inner", 1));
//! ```

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A stretch of time that an operator took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The operator.
    pub name: &'static str,
    /// Whether it belongs to the walk back.
    pub backward: bool,
    /// For a matrix product its layout and sizes `m, n, k`; zeros otherwise.
    pub sizes: [usize; 3],
    /// From [`record`] to its beginning.
    pub start: Duration,
    /// How long it took; zero while it lasts.
    pub length: Duration,
    /// Spans that were open when it began. A list of spans is in order of their beginnings, so the insides of a span
    /// are the deeper ones that follow it.
    pub depth: usize,
}

struct Recording {
    since: Instant,
    spans: Vec<Span>,
    open: usize,
}

thread_local! {
    static RECORDING: RefCell<Option<Recording>> = const { RefCell::new(None) };
}

/// Listens to this thread from now on; what was recorded before is forgotten.
pub fn record() {
    RECORDING.with_borrow_mut(|recording| {
        *recording = Some(Recording { since: Instant::now(), spans: Vec::new(), open: 0 });
    });
}

/// Ends the recording and returns its spans, in order of their beginnings; empty if there was none.
pub fn take() -> Vec<Span> {
    RECORDING.with_borrow_mut(|recording| recording.take()).map_or_else(Vec::new, |recording| recording.spans)
}

/// Ends its span when dropped.
#[must_use = "the span ends when this is dropped"]
pub struct Guard(Option<usize>);

/// Begins a span of the forward pass, or of work outside the tape.
pub fn span(name: &'static str) -> Guard {
    begin(name, false, [0; 3])
}

/// Begins the span of a matrix product `[m, k] [k, n]`; the name is its layout.
pub(crate) fn product(name: &'static str, (m, n, k): (usize, usize, usize)) -> Guard {
    begin(name, false, [m, n, k])
}

/// Begins the span of the walk back through the operator of type `T`, which bears the name of its module.
pub(crate) fn backward<T: ?Sized>() -> Guard {
    let path = std::any::type_name::<T>().split('<').next().unwrap_or_default();
    begin(path.rsplit("::").nth(1).unwrap_or(path), true, [0; 3])
}

fn begin(name: &'static str, backward: bool, sizes: [usize; 3]) -> Guard {
    RECORDING.with_borrow_mut(|recording| {
        let Some(recording) = recording else { return Guard(None) };
        let (start, depth) = (recording.since.elapsed(), recording.open);
        recording.open += 1;
        recording.spans.push(Span { name, backward, sizes, start, length: Duration::ZERO, depth });
        Guard(Some(recording.spans.len() - 1))
    })
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(index) = self.0 else { return };
        RECORDING.with_borrow_mut(|recording| {
            // A recording that began inside the span knows nothing of it.
            let Some(recording) = recording else { return };
            let end = recording.since.elapsed();
            if let Some(span) = recording.spans.get_mut(index) {
                span.length = end.saturating_sub(span.start);
                recording.open = span.depth;
            }
        });
    }
}

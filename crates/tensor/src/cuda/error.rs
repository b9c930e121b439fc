//! What can go wrong between the host and a card.

use super::Missing;
use std::fmt;

/// A card that cannot be used, or a call that failed.
#[derive(Debug)]
pub enum CardError {
    /// A library is not there.
    Missing(Missing),
    /// A library is there but lacks a function.
    Function {
        /// The library, as people know it.
        library: &'static str,
        /// The function's name.
        function: String,
    },
    /// The machine has fewer cards.
    NoCard {
        /// The card asked for, counted from 0.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A call was refused, or an earlier one turns out to have failed.
    Call {
        /// The function's name.
        call: &'static str,
        /// Its answer.
        code: i32,
        /// The answer's name and what it means, as the library tells.
        text: String,
    },
    /// The kernels do not compile: NVRTC's own words.
    Compile(String),
    /// A kernel's name is not in the compiled module.
    Kernel(String),
    /// Something was asked for while a graph was captured that cannot be part of one.
    NotInGraph(&'static str),
    /// A graph cannot be captured or launched.
    Graph {
        /// What it is called.
        name: String,
        /// Why.
        error: Box<CardError>,
    },
}

impl CardError {
    /// What to do about it.
    fn remedy(&self) -> &'static str {
        match self {
            CardError::Call { code: 2, .. } => {
                "the card's memory is full: for training take a smaller micro-batch or recompute activations, for generation a \
                 smaller cache"
            }
            CardError::Call { code: 100, .. } => {
                "no card is visible: look at `herd doctor` and CUDA_VISIBLE_DEVICES"
            }
            CardError::Call { code: 700..=719, .. } => {
                "a kernel went wrong; report this as a bug, with the output of `herd doctor`"
            }
            CardError::Call { code: 900..=909, .. } => {
                "a call did not fit into a graph; report this as a bug, with the output of `herd doctor`"
            }
            CardError::NotInGraph(_) => "it has to come before the graph is captured, or after",
            CardError::Compile(_) | CardError::Kernel(_) => {
                "report this as a bug, with the output of `herd doctor`"
            }
            _ => "`herd doctor` says what this machine has and what is missing",
        }
    }
}

impl fmt::Display for CardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CardError::Missing(missing) => write!(f, "{missing}")?,
            CardError::Function { library, function } => {
                write!(f, "the {library} has no {function}: it is too old, install a newer one")?;
            }
            CardError::NoCard { index, count } => write!(f, "there is no card {index}, only {count}")?,
            CardError::Call { call, code, text } => write!(f, "{call} failed: {text} (error {code})")?,
            CardError::Compile(log) => write!(f, "NVRTC cannot compile the kernels:\n{log}\n")?,
            CardError::Kernel(name) => write!(f, "the compiled kernels lack {name}")?,
            CardError::NotInGraph(what) => write!(f, "{what} cannot be part of a graph")?,
            CardError::Graph { name, error } => return write!(f, "graph `{name}`: {error}"),
        }
        write!(f, "; {}", self.remedy())
    }
}

impl std::error::Error for CardError {}

impl From<Missing> for CardError {
    fn from(missing: Missing) -> Self {
        CardError::Missing(missing)
    }
}

/// The end of an operator whose card failed. Operators answer with values, as they do for wrong shapes.
#[track_caller]
pub(crate) fn expect<T>(result: Result<T, CardError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

//! What can go wrong with a card: which call, what the library calls the failure, and what helps.

use super::{Kind, Missing};
use std::fmt;

/// A call that failed, or a card that cannot be used.
#[derive(Debug)]
pub enum Error {
    /// A library is not there.
    Missing(Missing),
    /// A library has no function of this name: another version is needed.
    Symbol {
        /// The library.
        kind: Kind,
        /// The function.
        name: String,
    },
    /// A function returned an error.
    Call {
        /// The function.
        call: &'static str,
        /// The library's own name of the code, such as `CUDA_ERROR_OUT_OF_MEMORY (2)`.
        code: String,
        /// What a user can do.
        remedy: String,
    },
    /// The request cannot be met.
    Unfit(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing(missing) => write!(f, "{missing} (`herd doctor` shows what is there)"),
            Error::Symbol { kind, name } => {
                write!(f, "this {} has no function {name}: {}", kind.name(), kind.remedy())
            }
            Error::Call { call, code, remedy } => write!(f, "{call}: {code}; {remedy}"),
            Error::Unfit(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl From<Missing> for Error {
    fn from(missing: Missing) -> Self {
        Error::Missing(missing)
    }
}

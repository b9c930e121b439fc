//! Evaluation (SPEC EVAL-1): bits per byte beside n-gram models, needle recall, multiple choice, held-out
//! instructions; every score with its 95% interval and every example on record.

pub mod bits_per_byte;
pub mod choices;
mod error;
pub mod held_out;
pub mod instructions;
pub mod interval;
pub mod likelihood;
pub mod needle;
pub mod ngram;
mod run;
mod settings;

pub use error::Error;
pub use run::{Methods, Summary, run};
pub use settings::{BitsPerByteSettings, ChoiceSettings, InstructionSettings, NeedleSettings, Settings};

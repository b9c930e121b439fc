//! Evaluation: bits per byte, n-gram baselines, needle recall, multiple choice, with intervals.

pub mod interval;
pub mod ngram;
mod random;

pub use random::Random;

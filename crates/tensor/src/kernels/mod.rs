//! Plain functions on slices: what the operators are made of, and what inference calls without a tape.
//!
//! Functions that take whole matrices use all threads of the current rayon pool; those that take one row run on the
//! calling thread. Wrong lengths panic.

mod adamw;
pub(crate) mod elementary;
pub(crate) mod matmul;
pub(crate) mod micro;
pub(crate) mod pack;
pub(crate) mod rows;

pub use adamw::{AdamWRule, Moment, adamw, sum_of_squares};
pub use matmul::{matmul_nn, matmul_nt, matmul_nt_add, matmul_tn_add};
pub use rows::{add_assign, dot, log_sum_exp, rms_norm, rope_row, softmax, swiglu};

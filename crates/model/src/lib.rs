//! Llama: configuration, forward pass on the tape, weights in and out.

//! Tensors, the tape, fused operators and their kernels.

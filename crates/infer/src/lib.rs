//! Generation: paged key/value cache, continuous batching, sampling.

//! Evaluation: bits per byte, n-gram baselines, needle recall, multiple choice, with intervals.

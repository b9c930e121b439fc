//! Post-training: preference data, reward model, rejection sampling, SFT, DPO, averaging.

//! Pre-training: optimizer, schedules, loader, trainer, checkpoints.

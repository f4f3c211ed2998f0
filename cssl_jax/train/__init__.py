"""Training: optimizers, state, step, loop, checkpoints and metrics."""

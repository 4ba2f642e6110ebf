"""Optimizers, the training state, one step, the loop: where everything else meets."""

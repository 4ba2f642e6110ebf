"""Trains a run, evaluates it, compares it, predicts with it: `didicm_jax.cli.main`."""

from didicm_jax.cli import entry, main

if __name__ == "__main__":
    entry.run(main.main)

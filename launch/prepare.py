"""Prepares images for training: `didicm_jax.cli.prepare`."""

from didicm_jax.cli import entry, prepare

if __name__ == "__main__":
    entry.run(prepare.main)

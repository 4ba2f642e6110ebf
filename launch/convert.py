"""Weights in and out: `didicm_jax.cli.convert`."""

from didicm_jax.cli import convert, entry

if __name__ == "__main__":
    entry.run(convert.main)

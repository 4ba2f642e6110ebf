"""A page to play with a trained network: `didicm_jax.cli.demo`."""

from didicm_jax.cli import demo, entry

if __name__ == "__main__":
    entry.run(demo.main)

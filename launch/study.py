"""Sets methods against each other in many runs: `didicm_jax.cli.study`."""

from didicm_jax.cli import entry, study

if __name__ == "__main__":
    entry.run(study.main)

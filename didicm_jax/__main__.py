"""`python -m didicm_jax` does what `launch/main.py` does."""

from didicm_jax.cli import entry, main

if __name__ == "__main__":
    entry.run(main.main)

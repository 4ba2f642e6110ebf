"""Prints the reference page of the settings: `python -m didicm_jax.config > docs/settings.md`."""

from didicm_jax.config import reference

if __name__ == "__main__":
    print(reference.page(), end="")

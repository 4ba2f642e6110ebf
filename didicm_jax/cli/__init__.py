"""Flags and modes: what people type. `python -m didicm_jax` and `launch/*.py` call it."""

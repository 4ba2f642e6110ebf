"""The settings of a run, and what they name."""

from didicm_jax.config.durations import steps
from didicm_jax.config.reference import listing
from didicm_jax.config.settings import (
    default,
    differences,
    flatten,
    from_json,
    may_change,
    sampler_reads,
    validate,
)

__all__ = [
    "default",
    "differences",
    "flatten",
    "from_json",
    "listing",
    "may_change",
    "sampler_reads",
    "steps",
    "validate",
]

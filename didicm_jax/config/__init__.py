"""The settings of a run, and what they name."""

from didicm_jax.config.durations import steps
from didicm_jax.config.reference import listing
from didicm_jax.config.settings import (
    FREE,
    FREE_IN_EVALUATION,
    default,
    differences,
    flatten,
    from_json,
    may_change,
    sampler_reads,
    under,
    validate,
)

__all__ = [
    "FREE",
    "FREE_IN_EVALUATION",
    "default",
    "differences",
    "flatten",
    "from_json",
    "listing",
    "may_change",
    "sampler_reads",
    "steps",
    "under",
    "validate",
]

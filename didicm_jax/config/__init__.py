"""The settings of a run, and what they name."""

from didicm_jax.config.durations import steps
from didicm_jax.config.reference import listing
from didicm_jax.config.sets import EvaluationSet, evaluation_sets
from didicm_jax.config.settings import (
    SAMPLER_CHOICES,
    default,
    differences,
    flatten,
    from_json,
    may_change,
    sampler_reads,
    validate,
)

__all__ = [
    "SAMPLER_CHOICES",
    "EvaluationSet",
    "default",
    "differences",
    "evaluation_sets",
    "flatten",
    "from_json",
    "listing",
    "may_change",
    "sampler_reads",
    "steps",
    "validate",
]

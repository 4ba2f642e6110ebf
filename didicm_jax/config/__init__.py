"""The settings of a run, and what they name."""

from didicm_jax.config.settings import (
    FREE,
    FREE_IN_EVALUATION,
    METHODS,
    default,
    differences,
    flatten,
    from_json,
    may_change,
    steps,
    under,
    validate,
)

__all__ = [
    "FREE",
    "FREE_IN_EVALUATION",
    "METHODS",
    "default",
    "differences",
    "flatten",
    "from_json",
    "may_change",
    "steps",
    "under",
    "validate",
]

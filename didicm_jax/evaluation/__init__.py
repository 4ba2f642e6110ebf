"""How good a posterior is: metrics over predictions."""

from didicm_jax.evaluation.metrics import (
    Outcomes,
    intervals,
    jackknife_error,
    left_out,
    outcomes,
    reliability,
    selective,
    summarize,
)

__all__ = [
    "Outcomes",
    "intervals",
    "jackknife_error",
    "left_out",
    "outcomes",
    "reliability",
    "selective",
    "summarize",
]

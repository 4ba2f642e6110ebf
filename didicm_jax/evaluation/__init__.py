"""How good a posterior is: metrics over predictions."""

from didicm_jax.evaluation.metrics import (
    Outcomes,
    Variance,
    intervals,
    jackknife,
    left_out,
    outcomes,
    reliability,
    selective,
    summarize,
)

__all__ = [
    "Outcomes",
    "Variance",
    "intervals",
    "jackknife",
    "left_out",
    "outcomes",
    "reliability",
    "selective",
    "summarize",
]

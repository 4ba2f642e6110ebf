"""How good a posterior is: metrics over predictions."""

from didicm_jax.evaluation.metrics import (
    Outcomes,
    entropy,
    outcomes,
    reliability,
    selective,
    summarize,
)
from didicm_jax.evaluation.resampling import Variance, intervals, jackknife, left_out

__all__ = [
    "Outcomes",
    "Variance",
    "entropy",
    "intervals",
    "jackknife",
    "left_out",
    "outcomes",
    "reliability",
    "selective",
    "summarize",
]

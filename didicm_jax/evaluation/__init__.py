"""How good a posterior is: metrics over predictions."""

from didicm_jax.evaluation.metrics import (
    Outcomes,
    intervals,
    outcomes,
    reliability,
    selective,
    summarize,
)

__all__ = ["Outcomes", "intervals", "outcomes", "reliability", "selective", "summarize"]

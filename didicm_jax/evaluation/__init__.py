"""How good a posterior is: metrics over predictions."""

from didicm_jax.evaluation.metrics import Outcomes, outcomes, summarize

__all__ = ["Outcomes", "outcomes", "summarize"]

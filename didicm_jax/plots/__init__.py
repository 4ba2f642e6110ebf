"""Figures, made with matplotlib's objects alone: no display is needed, and no state is shared.

Each function takes arrays and gives a `matplotlib.figure.Figure`; `save` writes it.
"""

from didicm_jax.plots.style import save

__all__ = ["save"]

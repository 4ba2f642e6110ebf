"""Discrete Diffusion Classification Modeling (arXiv 2511.20263) in JAX."""

__version__ = "0.1.0"

"""Discrete Diffusion Classification Modeling (arXiv 2511.20263) in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from didicm_jax.inference.predictor import Prediction, Predictor
    from didicm_jax.pytorch import interop

__version__ = "0.1.0"
__all__ = ["Prediction", "Predictor", "interop"]


def __getattr__(name: str) -> Any:
    # On demand: they bring the checkpoints' and the loaders' libraries, seconds of imports that
    # those who want the kernels or the models alone should not wait for.
    if name in ("Prediction", "Predictor"):
        from didicm_jax.inference import predictor

        return getattr(predictor, name)
    if name == "interop":
        from didicm_jax.pytorch import interop

        return interop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

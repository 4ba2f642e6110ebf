"""Discrete diffusion over K class labels: pure kernels, usable from any JAX code.

The state is one label in {0, ..., K-1}. The forward process is the uniform continuous-time Markov
chain run for total noise sigma(t); the reverse process needs only the concrete score, which a
`ScoreFn` gives: `(labels i32[B], sigma f32[B]) -> log_score f32[B, K]`, closed over whatever it is
conditioned on (image features, say). Everything is O(K) per example in time and memory: the chain
is rank one, so no K x K matrix is ever formed.

Arrays take any leading batch shape, the class axis is last, and `sigma` and `t` have the batch
shape; kernels of arrays take numbers and lists, too. Logarithms are natural. Log-scores below
float32 are promoted to float32.

Source: Discrete Diffusion Classification Modeling (arXiv 2511.20263); the score entropy is that of
SEDD (Lou et al., arXiv 2310.16834).
"""

from didicm_jax.diffusion import parameterization
from didicm_jax.diffusion.chain import (
    log_marginal,
    log_ratio,
    marginal,
    reverse_rate,
    sample_marginal,
    transition,
)
from didicm_jax.diffusion.grids import Grid, Times, times
from didicm_jax.diffusion.integrators import INTEGRATORS, Integrator
from didicm_jax.diffusion.losses import (
    Loss,
    denoising_cross_entropy,
    didicm_loss,
    loss_at_times,
    sample_times,
    score_entropy,
    weighted_score_entropy,
)
from didicm_jax.diffusion.parameterization import PARAMETERIZATIONS
from didicm_jax.diffusion.samplers import (
    CLSample,
    CPSample,
    Query,
    one_shot,
    sample_cl,
    sample_cp,
)
from didicm_jax.diffusion.schedules import (
    MAX_NOISE,
    MIN_EPS,
    MIN_NOISE,
    Geometric,
    LogLinear,
    Schedule,
    Shifted,
    geometric,
    loglinear,
    shifted,
    total_noise,
)
from didicm_jax.diffusion.steps import (
    ScoreFn,
    denoise,
    euler_cl_transition,
    euler_cp_step,
    exact_cp_step,
)

__all__ = [
    "INTEGRATORS",
    "MAX_NOISE",
    "MIN_EPS",
    "MIN_NOISE",
    "PARAMETERIZATIONS",
    "CLSample",
    "CPSample",
    "Geometric",
    "Grid",
    "Integrator",
    "LogLinear",
    "Loss",
    "Query",
    "Schedule",
    "ScoreFn",
    "Shifted",
    "Times",
    "denoise",
    "denoising_cross_entropy",
    "didicm_loss",
    "euler_cl_transition",
    "euler_cp_step",
    "exact_cp_step",
    "geometric",
    "log_marginal",
    "log_ratio",
    "loglinear",
    "loss_at_times",
    "marginal",
    "one_shot",
    "parameterization",
    "reverse_rate",
    "sample_cl",
    "sample_cp",
    "sample_marginal",
    "sample_times",
    "score_entropy",
    "shifted",
    "times",
    "total_noise",
    "transition",
    "weighted_score_entropy",
]

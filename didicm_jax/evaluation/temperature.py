"""Temperature scaling of posteriors (Guo et al. 2017, arXiv 1706.04599), in NumPy.

Shapes: N examples, K classes.
"""

import numpy as np
from scipy import optimize, special

from didicm_jax.evaluation.metrics import NLL_FLOOR, Outcomes, chunks, outcomes, summarize

# Logarithms of all temperatures that `sampler.temperature` takes, 1 among them. A search goes on
# from the best of these: the NLL of posteriors with zeros has several minima.
_STARTS = np.log(1e3) * np.arange(-10, 11) / 10
_TINY = np.finfo(np.float32).tiny  # a probability of 0 has a logarithm


def fit(probs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature from 0.001 to 1,000 of the least negative log-likelihood.

    It is 1 for posteriors that need none: those that are right as they are, and those that no
    temperature makes better, all alike, or right and certain.

    Args:
      probs: posteriors f32[N,K] of examples that neither trained nor will judge the model.
      labels: their classes i32[N].
    """

    def nll(log_temperature: float) -> float:
        at_label = []
        for rows in chunks(probs):
            scaled = apply(probs[rows], float(np.exp(log_temperature)))
            at_label.append(np.take_along_axis(scaled, labels[rows][:, None], axis=1)[:, 0])
        return -float(np.log(np.maximum(np.concatenate(at_label), NLL_FLOOR)).mean())

    values = [nll(start) for start in _STARTS]
    # Of equals the nearest to 1.
    best = min(range(len(values)), key=lambda place: (values[place], abs(_STARTS[place])))
    bounds = _STARTS[max(best - 1, 0)], _STARTS[min(best + 1, len(_STARTS) - 1)]
    # To a thousandth: each look costs a pass over all posteriors, and the NLL is flat there.
    options = {"xatol": 1e-3}
    found = optimize.minimize_scalar(nll, bounds=bounds, method="bounded", options=options)
    return float(np.exp(found.x if found.fun < values[best] else _STARTS[best]))


def apply(probs: np.ndarray, temperature: float) -> np.ndarray:
    """Posteriors `p^(1/temperature)`, normalised, f64[N,K]; the most probable class stays."""
    logs = np.log(np.maximum(probs.astype(np.float64), _TINY))
    return special.softmax(logs / temperature, axis=-1)


def best(probs: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The `temperature` of `fit`, from the same arguments, and the `nll` and the `ece` at it."""
    scale = fit(probs, labels)
    parts = [outcomes(apply(probs[rows], scale), labels[rows]) for rows in chunks(probs)]
    found = summarize(Outcomes(*map(np.concatenate, zip(*parts, strict=True))))
    return {"temperature": scale, "nll": found["nll"], "ece": found["ece"]}

"""Temperature scaling of posteriors (Guo et al. 2017, arXiv 1706.04599), in NumPy.

Shapes: N examples, K classes.
"""

import numpy as np
from scipy import optimize, special

from didicm_jax.evaluation.metrics import NLL_FLOOR, Outcomes, chunks, outcomes, summarize

# A search goes on from the best of these: the NLL of posteriors with zeros has several minima.
_STARTS = np.geomspace(0.02, 50.0, 12)
_TINY = np.finfo(np.float32).tiny  # a probability of 0 has a logarithm


def fit(probs: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least negative log-likelihood, 1 for posteriors that need none.

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

    starts = np.log(_STARTS)
    best = int(np.argmin([nll(start) for start in starts]))
    bounds = starts[max(best - 1, 0)], starts[min(best + 1, len(starts) - 1)]
    # To a thousandth: each look costs a pass over all posteriors, and the NLL is flat there.
    options = {"xatol": 1e-3}
    found = optimize.minimize_scalar(nll, bounds=bounds, method="bounded", options=options)
    return float(np.exp(found.x))


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

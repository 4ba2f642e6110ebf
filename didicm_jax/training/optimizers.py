"""Optimizers, put together from optax.

LAMB is timm's, which trained the paper's models: optax's pieces in timm's order.
"""

import jax
import ml_collections
import optax


def decay_mask(params: optax.Params) -> optax.Params:
    """True where weight decay applies: weights, not biases and norms, which are 1-d (as timm)."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def lamb(
    learning_rate: optax.ScalarOrSchedule, *, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """timm's LAMB: betas 0.9 and 0.999, eps 1e-6, the global gradient clipped first.

    Parameters without weight decay (biases, norms) get no layer adaptation either, and with no
    weight decay at all nothing does, as in timm with `always_adapt=False`.

    Source: You et al., arXiv 1904.00962; timm's `optim/lamb.py`, whose values the tests hold.
    """
    adapt = optax.chain(optax.add_decayed_weights(weight_decay), optax.scale_by_trust_ratio())
    return optax.chain(
        _clip(clip_norm),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-6),
        optax.masked(adapt, decay_mask) if weight_decay else optax.identity(),
        optax.scale_by_learning_rate(learning_rate),
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule, *, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """AdamW with betas 0.9 and 0.999, eps 1e-8; no decay of biases and norms."""
    return optax.chain(
        _clip(clip_norm),
        optax.adamw(learning_rate, weight_decay=weight_decay, mask=decay_mask),
    )


def sgd(
    learning_rate: optax.ScalarOrSchedule, *, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """SGD with Nesterov momentum 0.9, the decay added to the gradient as in PyTorch."""
    return optax.chain(
        _clip(clip_norm),
        optax.masked(optax.add_decayed_weights(weight_decay), decay_mask),
        optax.sgd(learning_rate, momentum=0.9, nesterov=True),
    )


OPTIMIZERS = {"lamb": lamb, "adamw": adamw, "sgd": sgd}


def create(
    settings: ml_collections.ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`."""
    return OPTIMIZERS[settings.name](
        learning_rate, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm
    )


def _clip(norm: float) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(norm) if norm else optax.identity()

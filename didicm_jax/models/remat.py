"""Memory for time: blocks whose arrays the backward pass computes again.

By what is kept between the passes, the values of the setting `train.remat`:
  none: what XLA needs.
  blocks: the inputs of blocks alone.
  the name of one of `jax.checkpoint_policies`: what that says of a block, too. `dots_saveable` are
    the results of all matrix products, `dots_with_no_batch_dims_saveable` those with weights;
    convolutions are neither.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

T = TypeVar("T")


def run(remat: str, function: Callable[..., T], block: nnx.Module, *inputs: object) -> T:
    """`function(block, *inputs)`, of which as much is kept for the gradient.

    Running statistics are updated by the forward pass, and not again by the backward pass.
    """
    if remat == "none":
        return function(block, *inputs)
    policy = None if remat == "blocks" else getattr(jax.checkpoint_policies, remat)
    result: T = nnx.remat(function, policy=policy)(block, *inputs)
    return result

"""What a network is made of, apart from its structure."""

from typing import NamedTuple

import chex
from flax import nnx


class Variables(NamedTuple):
    """The arrays of a network, as nested dicts."""

    params: chex.ArrayTree  # what the optimizer moves
    stats: chex.ArrayTree  # running statistics of the BatchNorms


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Variables]:
    """Separates a model's structure from its arrays."""
    # The type of nnx.split knows one filter, not two.
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graphdef, Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))

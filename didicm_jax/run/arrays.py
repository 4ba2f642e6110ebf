"""The arrays of a checkpoint: which there are, before any is read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import chex
import jax
import orbax.checkpoint as ocp
from etils import epath

from didicm_jax.errors import UserError


def check(checkpoint: Path, like: chex.ArrayTree, fields: Sequence[str] | None = None) -> None:
    """Compares the names and shapes of the arrays of a checkpoint with those wanted.

    Args:
      checkpoint: its folder.
      like: the arrays wanted, or their shapes.
      fields: the parts of the checkpoint that count; None for all.

    Raises:
      UserError: they are others.
    """
    # Not by orbax' manager, which reads the metrics too.
    saved = shapes(ocp.PyTreeCheckpointHandler().metadata(epath.Path(checkpoint / "default")))
    if fields is not None:
        saved = {name: shape for name, shape in saved.items() if name.split(".")[0] in fields}
    compare(checkpoint, saved, shapes(like))


def compare(
    place: Path, saved: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuses arrays that are not those of the network, by their names and shapes.

    Args:
      place: where they are.
      saved: those there are.
      wanted: those of the network.

    Raises:
      UserError: they are others.
    """
    for name in [*wanted, *saved]:
        if wanted.get(name) != saved.get(name):
            words = [
                "no such array" if shape is None else "x".join(map(str, shape)) or "a number"
                for shape in (wanted.get(name), saved.get(name))
            ]
            raise UserError(
                f"{place}: expected {name} to be {words[0]}, as the config says, found "
                f"{words[1]}: weights of another network; use its own config"
            )


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Names of arrays, like `variables.params.fc.kernel`, and their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        ".".join(str(_key(part)) for part in path): tuple(leaf.shape)
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _key(part: Any) -> Any:
    return next(getattr(part, name) for name in ("key", "name", "idx") if hasattr(part, name))

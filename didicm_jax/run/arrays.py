"""The arrays of a checkpoint: which there are, before any is read."""

from collections.abc import Sequence
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
    saved = _shapes(ocp.PyTreeCheckpointHandler().metadata(epath.Path(checkpoint / "default")))
    if fields is not None:
        saved = {name: shape for name, shape in saved.items() if name.split(".")[0] in fields}
    wanted = _shapes(like)
    for name in [*wanted, *saved]:
        if wanted.get(name) != saved.get(name):
            words = [
                "no such array" if shape is None else "x".join(map(str, shape)) or "a number"
                for shape in (wanted.get(name), saved.get(name))
            ]
            raise UserError(
                f"{checkpoint}: expected {name} to be {words[0]}, as the config says, found "
                f"{words[1]}: a checkpoint of another network; use its own config"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Names of arrays, like `variables.params.fc.kernel`, and their shapes."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        ".".join(str(_key(part)) for part in path): tuple(leaf.shape)
        for path, leaf in leaves
        if hasattr(leaf, "shape")
    }


def _key(part: Any) -> Any:
    return next(getattr(part, name) for name in ("key", "name", "idx") if hasattr(part, name))

"""Checkpoints of a run with orbax: written in the background, the latest two and the best kept."""

from pathlib import Path
from typing import Any

import chex
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

# What a checkpoint is worth that was saved without an evaluation: less than any accuracy.
_NOT_EVALUATED = -1.0


class Checkpoints:
    """The checkpoints of one run, under `workdir/checkpoints`, named by step."""

    def __init__(self, workdir: Path, *, create: bool = True) -> None:
        """Opens the folder of checkpoints; where there is none it is made, or taken as empty."""
        self._folder = workdir.resolve() / "checkpoints"
        # Not `max_to_keep` with `best_fn`: that deletes the newest, which resuming needs.
        keep = policies.AnyPreservationPolicy(
            [policies.LatestN(2), policies.BestN(get_metric_fn=_top1, n=1)]
        )
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                best_fn=_top1, preservation_policy=keep, create=create
            ),
        )

    def latest(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the checkpoint with the highest evaluated top-1, if one was evaluated."""
        self._manager.wait_until_finished()  # until then a checkpoint has no metrics
        step = self._manager.best_step()
        if step is None or _top1(self._manager.metrics(step)) == _NOT_EVALUATED:
            return None
        return step

    def save(self, step: int, state: chex.ArrayTree, *, top1: float | None = None) -> None:
        """Starts saving `state`, unless this step is saved already; returns before it is written.

        Args:
          step: its name.
          state: arrays, copied before this returns, so the next step may donate them.
          top1: its evaluated accuracy, to choose the best by.
        """
        if step not in self._manager.all_steps():
            metrics = {"top1": _NOT_EVALUATED if top1 is None else top1}
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def restore(self, step: int, like: chex.ArrayTree) -> Any:
        """Reads the state saved at `step`.

        Args:
          step: one of the steps kept.
          like: `jax.ShapeDtypeStruct`s with shardings; the result is placed as they say.
        """
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def _top1(metrics: dict[str, float]) -> float:
    return metrics["top1"]

"""Reads the checkpoints of a run, as orbax keeps them.

A checkpoint is the folder `checkpoints/<step>`, there as a whole or not at all. One that is damaged
later is found out by the list of digests that it was sealed with.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import chex
import orbax.checkpoint as ocp

from didicm_jax import files, parallel
from didicm_jax.errors import UserError
from didicm_jax.run import arrays, integrity, worth
from didicm_jax.run.places import Places


class SavedCheckpoints:
    """The checkpoints of one run, under `workdir/checkpoints`, named by step. Nothing is written.

    A folder that is not there is an empty one.
    """

    def __init__(self, workdir: Path, *, say: Callable[[str], None] = print) -> None:
        """Opens the folder of checkpoints.

        Args:
          workdir: of the run.
          say: told of what is damaged but can be done without.
        """
        self._places = Places(files.resolved(workdir))
        self._folder = self._places.checkpoints
        self._say = say
        self._manager = self._open()

    def latest(self) -> int | None:
        """The step of the newest checkpoint, if there is one."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the best checkpoint, by `config.evaluation.best`, if one was evaluated."""
        self._manager.wait_until_finished()  # until then a checkpoint has no metrics
        # By the files: the manager's own account needs all of them to be whole.
        steps = self._manager.all_steps()
        found = {step: worth.read(self._folder / str(step), self._say) for step in steps}
        evaluated = [(value, step) for step, value in found.items() if value is not None]
        return max(evaluated)[1] if evaluated else None

    def close(self) -> None:
        """Ends the threads of the manager."""
        with contextlib.suppress(Exception):
            self._manager.close()

    def restore_part(self, step: int, like: Mapping[str, chex.ArrayTree]) -> Any:
        """Reads some fields of the state saved at `step`; the arrays of the others are not read.

        Args:
          step: one of the steps kept.
          like: by the fields' names `jax.ShapeDtypeStruct`s with shardings; the result is placed as
            they say, on any number of devices.

        Raises:
          UserError: it is damaged, or of another network.
        """
        restored, problem = self._read(step, like, fields=list(like))
        if problem is None:
            return restored
        raise UserError(
            f"{self._folder / str(step)}: expected a whole checkpoint, found {problem}; use "
            "another one"
        )

    def _open(self) -> ocp.CheckpointManager:
        # Metrics that are cut are not mended, so the manager must not ask for them.
        return manager(self._folder, create=False, lightweight_initialize=True)

    def _read(
        self, step: int, like: chex.ArrayTree, fields: Sequence[str] | None = None
    ) -> tuple[Any, str | None]:
        """The state, or some fields of it, or why it cannot be read, the same on every process.

        Raises:
          UserError: it is of another network.
        """
        found = integrity.damage(self._folder / str(step)) if parallel.is_main() else None
        if parallel.any_process(found is not None):
            return None, found or "files differ"
        problem, state = None, None
        try:
            arrays.check(self._folder / str(step), like, fields)
            arguments = ocp.args.PyTreeRestore(
                like,
                restore_args=ocp.checkpoint_utils.construct_restore_args(like),
                partial_restore=fields is not None,
            )
            state = self._manager.restore(step, args=arguments)
        except UserError:
            raise
        except Exception as error:  # whatever reading half a file may raise
            problem = in_words(error)
        failed = parallel.any_process(problem is not None)
        return state, (problem or "another process cannot read it") if failed else None


def manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    """The manager of a folder of checkpoints, with these of `ocp.CheckpointManagerOptions`."""
    return ocp.CheckpointManager(
        folder,
        # Named, so that the shapes of a checkpoint are known before it is read.
        item_handlers=ocp.PyTreeCheckpointHandler(),
        options=ocp.CheckpointManagerOptions(
            best_fn=worth.rank,
            # It would be written, and waited for, whenever a manager is opened.
            save_root_metadata=False,
            **options,
        ),
    )


def in_words(error: Exception) -> str:
    """An error, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]

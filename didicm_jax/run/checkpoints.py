"""Writes the checkpoints of a run: in the background, the latest two and the best kept.

One that is found to be damaged is moved to `damaged/<step>`, and the one before is used.
"""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import chex
import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from didicm_jax import bucket, files, parallel
from didicm_jax.errors import UserError
from didicm_jax.run import integrity, worth
from didicm_jax.run.saved import SavedCheckpoints, in_words, manager


class Checkpoints(SavedCheckpoints):
    """The checkpoints of a run that is trained."""

    def __init__(
        self,
        workdir: Path,
        *,
        known: Mapping[str, float] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        """Opens the folder of checkpoints, makes it, and mends what can be mended.

        Args:
          workdir: of the run.
          known: what they are worth by its records (`worth.recorded`); process 0 is asked.
          say: told of what goes wrong but does not end the run.
        """
        self._known = known or {}
        self._saving: int | None = None  # the step whose save has not been seen to end
        self._fault = ""  # why the last save failed, if it did
        self._said = ""  # of the last one that failed
        self._stale = False  # the manager has failed, and is to be opened anew
        self._owed = dict[int, float]()  # what steps are worth that a disk has refused to take
        super().__init__(workdir, say=say)

    def save(self, step: int, state: chex.ArrayTree, *, evaluated: float | None = None) -> None:
        """Starts saving `state`; returns before it is written.

        A step that is saved already is left as it is, unless it was saved before its evaluation. A
        save that fails is told to `say`, and `finish` fails if it was the last.

        Args:
          step: its name.
          state: arrays, copied before this returns, so the next step may donate them.
          evaluated: what it is worth by its evaluation, to choose the best by; more is better.
        """
        self.check(wait=True)
        # What process 0 sees decides for all: a branch of one alone would leave the others waiting.
        if parallel.any_process(parallel.is_main() and self._gone()):
            # Made anew it would be without the rest of the run.
            self._failed(step, FileNotFoundError(f"{self._folder} is gone"))
            return
        for earlier, worth_of_it in list(self._owed.items()):
            self._add_worth(earlier, worth_of_it)
        if self._stale:
            self._reopen()
        if parallel.any_process(parallel.is_main() and step in self._manager.all_steps()):
            if evaluated is not None:
                self._add_worth(step, evaluated)
            return
        fault: Exception | None = None
        try:
            self._saving = step
            arguments = ocp.args.PyTreeSave(state)
            self._manager.save(step, args=arguments, metrics=worth.metrics(evaluated))
        except Exception as error:
            fault = error
        self._agree(step, fault)

    def check(self, *, wait: bool = False) -> None:
        """Finds out, and says, whether the save in the background has failed.

        Several processes find out together, at the next save or the end.

        Args:
          wait: until it is over.
        """
        if self._saving is None or (jax.process_count() > 1 and not wait):
            return
        if not wait and self._manager.is_saving_in_progress():
            return
        step, fault = self._saving, None
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
        except Exception as error:
            fault = error
        if self._agree(step, fault):
            self._saving, self._fault = None, ""

    def finish(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: the last save failed.
        """
        self.check(wait=True)
        if self._fault:
            # What a bucket holds was listed when it was opened.
            unknown = not bucket.holds(self._folder) and self._gone()
            kept = None if unknown else self.latest()
            raise UserError(
                f"expected to save the run in {self._folder}, found {self._fault}; "
                f"make room or mend the folder, then go on from "
                f"{'the start' if kept is None else f'the checkpoint of step {kept}'}",
                about="run folder",
            )

    def close(self) -> None:
        """Ends the threads that write."""
        try:
            self._manager.close()
        except Exception as error:
            # Told by this process alone, and not agreed on: the others may have closed theirs.
            if self._saving is not None:
                self._say(f"checkpoint {self._saving} could not be saved ({in_words(error)})")
            super().close()

    def restore_latest(self, like: chex.ArrayTree) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that is whole; those that are not are moved out of the way.

        Args:
          like: the whole state, as `jax.ShapeDtypeStruct`s with shardings.

        Returns:
          Its step and the state, or None where there is no checkpoint.

        Raises:
          UserError: it is of another network, or there are checkpoints and none is whole, or
            processes see others, as a network folder may show them for a while.
        """
        damaged: dict[int, str] = {}
        steps = sorted(self._manager.all_steps(), reverse=True)
        parallel.agree({"the checkpoints that they see": steps})
        for step in steps:
            state, problem = self._read(step, like)
            if problem is None:
                self._set_aside(damaged, step)
                return step, state
            damaged[step] = problem
        if damaged:
            step, problem = next(iter(damaged.items()))
            raise UserError(
                f"expected a whole checkpoint in {self._folder}, found all {len(damaged)} damaged "
                f"(that of step {step}: {problem}); put back copies of them, or start again in "
                "another folder",
                about="run folder",
            )
        return None

    def _open(self, *, create: bool = True) -> ocp.CheckpointManager:
        with parallel.alone() as mine:  # until they are whole
            if mine:
                self._clear()
                worth.mend(self._folder, self._known, self._say)
        # Not `max_to_keep` with `best_fn`: that deletes the newest, which resuming needs.
        keep = policies.AnyPreservationPolicy(
            [policies.LatestN(2), policies.BestN(get_metric_fn=worth.rank, n=1)]
        )
        return manager(
            self._folder,
            preservation_policy=keep,
            create=create,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._seal,
                timeout_secs=600,  # where one process fails, the others wait this long for it
                # In the background, where a full disk refuses a folder, threads would wait as
                # long for it, and a process of its own with them, after its last line.
                create_directories_asynchronously=jax.process_count() > 1,
            ),
        )

    def _clear(self) -> None:
        """Deletes what a process was writing when it was killed: no later save may have that step.

        By the name. What orbax itself would clean of a bucket is all without its mark, and so what
        was copied there from a disk.
        """
        if not bucket.holds(self._folder):
            for half in self._folder.glob(f"*{ocp.path.step.TMP_DIR_SUFFIX}*"):
                shutil.rmtree(half, ignore_errors=True)  # it is only in the way

    def _gone(self) -> bool:
        """Whether the folder is there no more, or its bucket does not answer."""
        if bucket.holds(self._folder):
            return not bucket.reachable(self._folder)
        return not self._folder.is_dir()

    def _agree(self, step: int, fault: Exception | None) -> bool:
        """Whether no process has a fault; else the save is given up on all of them."""
        if not parallel.any_process(fault is not None):
            return True
        self._failed(step, fault or OSError("another process could not write its part"))
        return False

    def _add_worth(self, step: int, evaluated: float) -> None:
        """Gives a checkpoint that was saved before its evaluation what it is worth."""
        checkpoint, fault = self._folder / str(step), None
        self._owed[step] = evaluated
        if parallel.is_main():
            try:
                # One that was owed may have been deleted by now, or be there by another way.
                if checkpoint.exists() and worth.read(checkpoint, self._say) is None:
                    worth.write(checkpoint, evaluated)
            except OSError as error:
                fault = error
        if self._agree(step, fault):  # which waits until it is written
            self._fault = ""
            del self._owed[step]
            if not self._stale:
                self._manager.reload()

    def _seal(self) -> None:
        """Called when all is written and before the checkpoint gets its name."""
        if parallel.is_main():
            # Under its temporary name; where the file system cannot rename, under its own.
            written = sorted(self._folder.glob(f"{self._saving}.*tmp*"))
            integrity.seal(written[0] if written else self._folder / str(self._saving))

    def _failed(self, step: int, error: Exception) -> None:
        self._fault = in_words(error)
        self._saving = None
        words = (
            f"checkpoint {step} could not be saved ({self._fault}); training goes on, and the next "
            "save tries again"
        )
        if words != self._said:  # a step that is evaluated is tried twice
            self._say(words)
        self._said = words
        # A manager that failed remembers a step that is not there; closing it fails again.
        with contextlib.suppress(Exception):
            self._manager.close()
        self._stale = True
        if not bucket.holds(self._folder):  # which is to answer first
            self._reopen()

    def _reopen(self) -> None:
        self._manager, self._stale = self._open(create=False), False

    def _set_aside(self, damaged: dict[int, str], good: int) -> None:
        """Moves damaged checkpoints to where they do not stand in the way of new ones."""
        for step, problem in damaged.items():
            target = self._places.damaged / str(step)
            with parallel.alone() as mine:
                if mine:
                    while target.exists():
                        target = target.with_name(target.name + "-again")
                    files.move(self._folder / str(step), target)
            self._say(
                f"checkpoint {step} is damaged: {problem}; moved to {target}, going on from that "
                f"of step {good}"
            )
        if damaged:
            self._manager.reload()

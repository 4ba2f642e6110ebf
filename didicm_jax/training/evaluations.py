"""The evaluations of a run while it is trained: which are due, and those that were cut off."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from didicm_jax import parallel
from didicm_jax.evaluation import loop as evaluation
from didicm_jax.inference.program import Program
from didicm_jax.run import journal, worth
from didicm_jax.training.plan import Plan
from didicm_jax.training.sets import Opened
from didicm_jax.training.state import TrainState

Found = dict[str, evaluation.Evaluation]  # of one step, by the name of the set


class Evaluations:
    """Evaluates steps that are saved, on every set that is due. None if a stop came in between."""

    def __init__(
        self,
        plan: Plan,
        predict: Program,
        reporter: journal.Reporter,
        *,
        save: Callable[[int, TrainState, float], None],
        asked_to_stop: Callable[[], bool],
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """Evaluates nothing yet.

        Args:
          plan: of the run.
          predict: its program of the evaluations.
          reporter: told of each evaluation, and knows which there are.
          save: called with a step, its state and its worth on the set that decides what is best.
          asked_to_stop: whether any process is to stop.
          waiting: a context for what waits for other processes.
        """
        self.judge = plan.sets[0].name  # the set that decides which checkpoint is best
        self._plan, self._predict, self._reporter, self._save = plan, predict, reporter, save
        self._asked_to_stop, self._waiting = asked_to_stop, waiting

    def due(self, step: int) -> list[Opened]:
        """The sets to evaluate after a step, the same on every process."""
        last = step == self._plan.durations.total
        return [each for each in self._plan.sets if last or step % each.every == 0]

    def run(self, step: int, current: TrainState, due: Sequence[Opened]) -> Found | None:
        """Evaluates a step, and says so."""
        results: Found = {}
        for each in due:
            found = self._measure(current, each)
            if found is None:
                return None
            if each.name == self.judge:
                best = self._plan.config.evaluation.best
                self._save(step, current, worth.of(found.metrics, best))
            # The record last: where it is missing, the next start evaluates again.
            self._reporter.evaluation(step, found.metrics, each.name)
            results[each.name] = found
        return results

    def catch_up(self, step: int, current: TrainState) -> Found | None:
        """The evaluations of a restored step that were interrupted, and that of the end."""
        missing = [
            each
            for each in self.due(step)
            if not parallel.any_process(self._reporter.has_evaluation(step, each.name))
        ]
        found = self.run(step, current, missing)
        if found is None or step < self._plan.durations.total or self.judge in found:
            return found
        again = self._measure(current, self._plan.sets[0])
        if again is None:
            return None
        # Where a full disk had room for the record and none for this.
        best = self._plan.config.evaluation.best
        self._save(step, current, worth.of(again.metrics, best))
        self._reporter.say(journal.summary(again.metrics))
        return found | {self.judge: again}

    def _measure(self, current: TrainState, chosen: Opened) -> evaluation.Evaluation | None:
        def proceed() -> bool:
            with self._waiting():
                return not self._asked_to_stop()

        return evaluation.evaluate(
            self._predict,
            current.averaged,
            chosen.source,
            batch_size=self._plan.config.evaluation.batch_size,
            proceed=proceed,
            waiting=self._waiting,
        )

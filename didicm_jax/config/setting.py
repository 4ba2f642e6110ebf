"""One row of the table of settings, and the conditions under which a setting is read."""

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from didicm_jax.config import durations, sets
from didicm_jax.config.checks import Check


class Change(enum.Enum):
    """When a setting may differ from what a run was started with; the value says it to people."""

    NEVER = "no: it is another run"
    EVALUATING = "to evaluate"
    ALWAYS = "yes"


@dataclass(frozen=True)
class When:
    """A condition on another setting.

    Attributes:
      key: the other setting.
      holds: whether its value is such that the setting is read.
      words: the condition, for people; a function says it where others know it.
    """

    key: str
    holds: Callable[[Any], bool]
    words: str | Callable[[], str]

    def __str__(self) -> str:
        """The condition, for people."""
        return self.words() if callable(self.words) else self.words


@dataclass(frozen=True)
class Setting:
    """A setting of a run.

    Attributes:
      key: dotted, `section.name` or `name`.
      default: its value in `default()`, and the type of every value.
      help: what it is, with its unit.
      check: which values it may have.
      read: the conditions under which something reads it, all at once; elsewhere it must stay at
        its default.
      change: when it may differ from what the run was started with.
      before: what runs did that are older than the setting; None: its default.
    """

    key: str
    default: Any
    help: str
    check: Check
    read: tuple[When, ...] = ()
    change: Change = Change.NEVER
    before: Any = None

    @property
    def former(self) -> Any:
        """Its value in runs that are older than it."""
        return self.default if self.before is None else self.before

    @property
    def section(self) -> str:
        """The part of the key before the dot; "" where there is none."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The part of the key behind the dot."""
        return self.key.rpartition(".")[2]

    def fault(self, value: Any) -> str:
        """What was expected instead of `value`, or "" where it passes."""
        kind = type(self.default)
        # An int is a fine float; a bool is not a fine int.
        fits = isinstance(value, kind) or (kind is float and isinstance(value, int))
        if not fits or (isinstance(value, bool) and kind is not bool):
            return "True or False" if kind is bool else f"{kind.__name__}, like {self.default!r}"
        return self.check.fault(value)

    def unread(self, values: Mapping[str, Any]) -> When | None:
        """The first condition that does not hold among the values of all settings; None: read."""
        return next((when for when in self.read if not when.holds(values[when.key])), None)


def among(key: str, *values: str) -> When:
    """Where the other setting has one of these values."""
    return When(key, lambda value: value in values, f"{key}={' or '.join(values)}")


def other_than(key: str, *values: str) -> When:
    """Where the other setting has none of these values."""
    return When(key, lambda value: value not in values, f"{key} other than {' and '.join(values)}")


def above_zero(key: str) -> When:
    """Where the other setting, a number, is on."""
    return When(key, lambda value: value > 0, f"{key} > 0")


def photos() -> When:
    """Where images are decoded from files, and not held in memory."""

    def holds(name: str) -> bool:
        from didicm_jax import data  # it takes a second to import

        return not data.shows_whole(name)

    return When("data.name", holds, "photos: data.name is neither digits nor idx")


def lasting(key: str) -> When:
    """Where the other setting, a duration, is not 0."""

    def holds(text: str) -> bool:
        return durations.parse(text) is not None

    return When(key, holds, f"{key} above 0 steps")


def set_without(words: str, *fields: str) -> When:
    """Where an evaluation set leaves something to a setting, or there is none.

    Args:
      words: what it does not say, for people.
      fields: of `sets.EvaluationSet`; with one of them it has said it.
    """
    return When(
        "evaluation.sets",
        lambda texts: not texts or not all(sets.says(text, *fields) for text in texts),
        f"evaluation.sets empty, or one of them without {words}",
    )


def model_option(option: str) -> When:
    """Where the family of the model has this option, as `models.options_of` names it."""

    def holds(name: str) -> bool:
        from didicm_jax import models  # it brings flax

        return option in models.options_of(name)

    def words() -> str:
        from didicm_jax import models

        takers = {re.match("[a-z]+", name)[0] for name in models.names() if holds(name)}  # type: ignore[index]
        return f"model.name of {' or '.join(sorted(takers))}"

    return When("model.name", holds, words)

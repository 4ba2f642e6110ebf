"""What the value of one setting may be.

A check says in `words` what it lets pass, for people, and `fault` returns what it expected where a
value does not pass, else "". The type has been compared with that of the default before.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from didicm_jax.config import durations, sets
from didicm_jax.errors import UserError


class Check(Protocol):
    """One setting's values."""

    @property
    def words(self) -> str:
        """Which values pass."""

    def fault(self, value: Any) -> str:
        """What was expected, or "" where the value passes."""


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, each of which passes unless that end is open."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    @property
    def words(self) -> str:
        """Which values pass."""
        if self.high <= 1:
            return self._interval()
        if self.open_low:
            return f"above {_text(self.low)}, up to {_text(self.high)}"
        return f"{_text(self.low)} to {_text(self.high)}"

    def fault(self, value: Any) -> str:
        """What was expected; of a number that is none, NaN, too."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        if above and below:
            return ""
        if self.high <= 1:
            return f"a number in {self._interval()}"
        if value > self.high:
            return f"a number at most {_text(self.high)}"
        return f"a number {'above' if self.open_low else 'at least'} {_text(self.low)}"

    def _interval(self) -> str:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"{left}{_text(self.low)}, {_text(self.high)}{right}"


@dataclass(frozen=True)
class Numbers:
    """Several numbers, each of which passes `each`.

    Attributes:
      each: the check of one.
      what: what they are, for people.
      pair: exactly two, the first not above the second.
    """

    each: Number
    what: str
    pair: bool = False

    @property
    def words(self) -> str:
        """Which values pass."""
        return f"{self.what}, each {self.each.words}"

    def fault(self, value: Any) -> str:
        """What was expected."""
        numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
        if not numbers:
            return f"numbers: {self.words}"
        if not value or any(self.each.fault(x) for x in value):
            return self.words
        return self.words if self.pair and (len(value) != 2 or value[0] > value[1]) else ""


@dataclass(frozen=True)
class Choice:
    """One of some words; a function names those that are known elsewhere."""

    options: Sequence[str] | Callable[[], Sequence[str]]
    label: str = ""

    @property
    def words(self) -> str:
        """Which values pass."""
        return self.label or ", ".join(self._options())

    def fault(self, value: Any) -> str:
        """What was expected."""
        options = self._options()
        return "" if value in options else f"one of {', '.join(options)}"

    def _options(self) -> Sequence[str]:
        return self.options() if callable(self.options) else self.options


@dataclass(frozen=True)
class Switch:
    """On or off."""

    words: str = "True or False"

    def fault(self, value: Any) -> str:
        """Nothing: both values pass."""
        return ""


@dataclass(frozen=True)
class Text:
    """A text whose reader checks what it names."""

    words: str = "text"
    required: bool = False

    def fault(self, value: Any) -> str:
        """What was expected."""
        return f"{self.words}, not empty" if self.required and not value.strip() else ""


@dataclass(frozen=True)
class Duration:
    """A number and a unit."""

    words: str = "a duration"
    zero: bool = False  # whether it may be 0

    def fault(self, value: Any) -> str:
        """What was expected."""
        right = durations.parse(value, zero=self.zero) is not None
        return "" if right else durations.expected(zero=self.zero)


@dataclass(frozen=True)
class EvaluationSets:
    """The sets that a training is evaluated on, each spelled as one text."""

    words: str = f"texts, each {sets.SPELLING}"

    def fault(self, value: Any) -> str:
        """What was expected."""
        return sets.fault(value)


@dataclass(frozen=True)
class RandAugment:
    """What `augment` reads as a RandAugment, or nothing."""

    words: str = "as timm spells it, such as rand-m7-mstd0.5-inc1"

    def fault(self, value: Any) -> str:
        """What was expected, in the words of the reader."""
        from didicm_jax.augment.spec import parse_rand_augment

        try:
            if value:
                parse_rand_augment(value, "")
        except UserError as error:
            # Its line is `: expected …, found …`, as every line is.
            return str(error).removeprefix(": expected ").partition(", found ")[0]
        return ""


def _text(number: float) -> str:
    return f"{number:.10g}"

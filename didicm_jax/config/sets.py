"""The sets that a training is evaluated on: how `config.evaluation.sets` spells them."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections

from didicm_jax.config import durations

SPELLING = "NAME[=SPLIT] [of DATASET [in FOLDER]] [with CORRUPTION:SEVERITY] [every DURATION]"
_PATTERN = re.compile(
    r"(?P<name>[^\s=/]+)(=(?P<split>\S+))?( of (?P<dataset>\S+)( in (?P<data_dir>\S+))?)?"
    r"( with (?P<corruption>\S+):(?P<severity>[0-9]{1,4}))?( every (?P<every>.+))?"
)


class EvaluationSet(NamedTuple):
    """One set, as it is named: nothing of it has been opened."""

    name: str  # "": the only one of a run that names none
    split: str  # "": validation, or test where there is none
    dataset: str = ""  # "": that of the run
    data_dir: str = ""  # "": where the run's own data are
    corruption: str = ""  # "": none
    severity: int = 0
    every: str = ""  # a duration; "": `config.evaluation.every`


def evaluation_sets(config: ml_collections.ConfigDict) -> tuple[EvaluationSet, ...]:
    """The sets of a valid config, one at least; the first decides what is best."""
    default = EvaluationSet("", config.data.eval_split)
    named = [each for text in config.evaluation.sets if (each := _parse(text))]
    return tuple(
        each if each.split or each.dataset else each._replace(split=default.split)
        for each in named or [default]
    )


def says(text: str, *fields: str) -> bool:
    """Whether a set of `config.evaluation.sets` says one of these fields of an `EvaluationSet`."""
    found = _parse(text)
    return found is not None and any(getattr(found, field) for field in fields)


def fault(texts: Sequence[Any]) -> str:
    """What `config.evaluation.sets` was expected to hold, or "" where it passes."""
    names: set[str] = set()
    for text in texts:
        shown, found = f"{text!r:.60}", _parse(text)
        if found is None:
            return f"{SPELLING}, with a NAME that can be printed and without slashes, not {shown}"
        if found.every and durations.parse(found.every) is None:
            return f"{durations.expected()}, behind 'every' in {shown}"
        if not names and (found.dataset or found.corruption):
            return (
                "a part of the run's own data set, uncorrupted, as the first, which decides what "
                f"is best, not {shown}"
            )
        if found.name in names:
            return f"each name once, not {found.name!r} twice"
        names.add(found.name)
    return ""


def _parse(text: Any) -> EvaluationSet | None:
    match = _PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match is None or not text.isprintable():
        return None
    words: dict[str, Any] = match.groupdict(default="")
    return EvaluationSet(**words | {"severity": int(words["severity"] or 0)})

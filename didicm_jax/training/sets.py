"""The sets that a training is evaluated on, opened."""

import re
from typing import NamedTuple

import ml_collections

from didicm_jax import config as configuration
from didicm_jax import data
from didicm_jax.data.corruptions import corrupted
from didicm_jax.errors import UserError
from didicm_jax.evaluation import subject
from didicm_jax.run import Description


class Opened(NamedTuple):
    """One of them."""

    name: str  # "": the only one of a run that names none
    source: data.Source
    every: int  # steps between two evaluations


def open_all(
    config: ml_collections.ConfigDict, dataset: data.Dataset, total: int
) -> tuple[Opened, ...]:
    """The sets of `config.evaluation.sets`, the first of which is `dataset.test`.

    Args:
      config: a valid one.
      dataset: of `config.data`.
      total: the steps of the run.

    Raises:
      UserError: one is not there, is not of the images and classes of the run, cannot be corrupted
        as it says, or would not be evaluated before the run ends.
    """
    wanted = configuration.evaluation_sets(config)
    opened = []
    for each in wanted:
        every = _steps(config, each, len(dataset.train), total)
        try:
            # Of one part there is one source.
            own = not each.dataset and each.split == wanted[0].split
            source = dataset.test if own else _other(config, dataset, each)
            if each.corruption:
                # What is in memory anyway may be there twice, and corrupting takes long.
                keep = isinstance(source, data.ArraySource)
                source = corrupted(source, each.corruption, each.severity, keep=keep)
        except UserError as error:
            raise UserError(
                f"config.evaluation.sets, {each.name}: {_of_set(error.message)}"
            ) from error
        opened.append(Opened(each.name, source, every))
    return tuple(opened)


def _other(
    config: ml_collections.ConfigDict, dataset: data.Dataset, wanted: configuration.EvaluationSet
) -> data.Source:
    data_dir = wanted.data_dir
    if wanted.dataset and not data_dir and not data.shows_whole(wanted.dataset):
        data_dir = config.data.data_dir  # stored sets lie side by side
    other = subject.OtherData(wanted.dataset or None, data_dir or None, wanted.split)
    return subject.other_dataset(config, Description.of(dataset), other).test


def _steps(
    config: ml_collections.ConfigDict,
    wanted: configuration.EvaluationSet,
    num_examples: int,
    total: int,
) -> int:
    key = f"evaluation.sets, {wanted.name}" if wanted.every else "evaluation.every"
    duration = wanted.every or config.evaluation.every
    batch_size = config.train.batch_size
    steps = configuration.steps(duration, batch_size=batch_size, num_examples=num_examples, key=key)
    if wanted.every and steps > total:
        raise UserError(
            f"config.{key}: expected an interval of at most the {total} steps of the run "
            f"({config.train.duration}), found {steps} steps ({duration}); shorten it"
        )
    return steps


def _of_set(message: str) -> str:
    """A message in which the settings of the run's data stand for what the set says of its own."""
    message = re.sub(
        r"(config\.data\.train_split (or|and) )?config\.data\.eval_split", "the split", message
    )
    for key, words in (("data.name", "the data set"), ("data.data_dir", "its folder")):
        message = message.replace(f"config.{key}", words)
    return message

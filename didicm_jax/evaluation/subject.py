"""A trained network and the examples that it is asked about."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import ml_collections
import numpy as np
from jax.sharding import Mesh

from didicm_jax import config as configuration
from didicm_jax import data, parallel
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.evaluation import loop
from didicm_jax.inference import network as networks
from didicm_jax.inference import program, sweep
from didicm_jax.inference.program import Program
from didicm_jax.inference.sampling import Posterior
from didicm_jax.run import Description

Columns = TypeVar("Columns")  # a tree of arrays [n, ...]


class OtherData(NamedTuple):
    """Examples to evaluate on instead of the run's own."""

    dataset: str | None = None
    data_dir: str | None = None  # of that data set, or where the run's own is by now
    split: str | None = None  # "": validation, or test where there is none
    examples: int | None = None  # at most so many, the same share of each class


class Subject(NamedTuple):
    """A network, where it runs, and N examples."""

    network: networks.Network
    mesh: Mesh
    source: data.Source
    dataset_name: str

    @property
    def class_names(self) -> tuple[str, ...]:
        """Those of the network, which are those of the examples."""
        return self.network.description.class_names

    def program(self, config: ml_collections.ConfigDict, *, trajectory: bool = False) -> Program:
        """The network with the sampler of `config`; the rest as for `program.create`."""
        return program.create(
            config,
            self.network.graphdef,
            len(self.class_names),
            self.mesh,
            trajectory=trajectory,
        )

    def evaluate(
        self,
        chosen: Program,
        source: data.Source | None = None,
        *,
        waiting: loop.Waiting = contextlib.nullcontext,
        keep: Callable[[Posterior], None] | None = None,
    ) -> loop.Evaluation:
        """The scores of one of its programs on its own examples, or on `source`, of its classes.

        Arguments and errors as for `loop.evaluate`.
        """
        found = loop.evaluate(
            chosen,
            self.network.variables,
            self.source if source is None else source,
            batch_size=self.network.config.evaluation.batch_size,
            waiting=waiting,
            keep=keep,
        )
        assert found is not None
        return found

    def batches(
        self,
        chosen: Program,
        reduce: Callable[[loop.Rows], Columns],
        *,
        batch_size: int | None = None,
        waiting: loop.Waiting = contextlib.nullcontext,
    ) -> Iterator[Columns]:
        """What `reduce` makes of a program's posteriors of its examples, as `loop.batches` does.

        `batch_size` is by default that of the run's config.
        """
        return loop.batches(
            chosen,
            self.network.variables,
            self.source,
            reduce,
            batch_size=batch_size or self.network.config.evaluation.batch_size,
            waiting=waiting,
        )

    def trajectories(
        self,
        config: ml_collections.ConfigDict,
        places: np.ndarray,
        *,
        waiting: loop.Waiting,
    ) -> np.ndarray | None:
        """The way to the posteriors of a few of its examples, by the sampler of `config`.

        They are run once more, on all processes: an evaluation keeps no trajectories.

        Args:
          config: of the run, with the sampler to use.
          places: i64[M] of the examples, M > 0.
          waiting: surrounds each wait for the other processes.

        Returns:
          f32[M, S + 1, K]; None if the sampler diffuses no probabilities, and nothing is run.
        """
        if not sweep.has_trajectory(config):
            return None
        found = loop.batches(
            self.program(config, trajectory=True),
            self.network.variables,
            self.source,
            lambda rows: rows.posterior.trajectory,
            batch_size=min(len(places), self.network.config.evaluation.batch_size),
            waiting=waiting,
            only=places,
        )
        return np.concatenate(list(found))


def side_by_side(
    subjects: tuple[Subject, Subject],
    programs: tuple[Program, Program],
    *,
    waiting: loop.Waiting,
) -> Iterator[tuple[loop.Rows, loop.Rows]]:
    """What two networks say of the same examples, batch after batch: no more is in memory.

    Args:
      subjects: the two, of the same examples (`check_comparable`).
      programs: of each.
      waiting: surrounds each wait for the other processes.
    """
    batch_size = subjects[0].network.config.evaluation.batch_size
    streams = [
        subject.batches(chosen, lambda rows: rows, batch_size=batch_size, waiting=waiting)
        for subject, chosen in zip(subjects, programs, strict=True)
    ]
    return zip(*streams, strict=True)


def open_subject(
    folder: networks.Trained,
    checkpoint: str,
    other: OtherData = OtherData(),  # noqa: B008 (a tuple)
) -> Subject:
    """Reads a network, and the data to evaluate it on.

    Args:
      folder: of the run, which may be changed to other settings for evaluation; or a bundle.
      checkpoint: `latest` or `best`, of a run.
      other: what to evaluate on instead of the run's own test examples.

    Raises:
      UserError: there is no such checkpoint, or the data are not there or have other classes, on
        any process, or are not the same on all.
    """
    with parallel.together():
        dataset = other_dataset(folder.config, folder.description, other)
        facts = {"the images to evaluate on": dataset.test.digest()}
    parallel.agree(facts)
    mesh = parallel.make_mesh()
    network = networks.load(folder, checkpoint, mesh)
    name = other.dataset or folder.config.data.name
    source = dataset.test
    if other.examples is not None:
        source = data.fixed_subset(source, min(other.examples, len(source)))
    return Subject(network, mesh, source, name)


def other_dataset(
    config: ml_collections.ConfigDict, described: Description, other: OtherData
) -> data.Dataset:
    """A data set whose test examples a run can be evaluated on; no others are opened.

    Args:
      config: of the run.
      described: its own data.
      other: what to evaluate on instead; how many of the examples is not heeded.

    Raises:
      UserError: the data are not there, or have other classes or other sizes.
    """
    shown = _on_other_data(config, described, other)
    try:
        dataset = build.stored(shown, trains=False)
    except UserError as error:
        if other.dataset is None:
            raise
        # A run keeps its settings: it is not advised to change this one.
        key = "data.resolution"
        message = error.message.replace(f"config.{key}", "the side of the run's images")
        message = message.replace(": lower it or leave it out", "; use images of that size")
        raise UserError(message, about=error.about) from error
    mismatch = described.mismatch(Description.of(dataset))
    if mismatch:
        raise UserError(
            f"{mismatch} in {shown.data.name}; use a data set with the images and the classes of "
            "the run",
            about="dataset",
        )
    return dataset


def check_comparable(ours: Subject, theirs: Subject) -> None:
    """Refuses two networks whose figures on their examples must not be held against each other.

    Raises:
      UserError: their classes or their examples differ.
    """
    check_classes(ours.class_names, theirs.class_names)
    if ours.source.digest() != theirs.source.digest():
        raise UserError(
            "expected a run that is judged on the same images, found "
            f"{len(theirs.source):,} of {theirs.dataset_name} that are not the "
            f"{len(ours.source):,} of {ours.dataset_name}, or in another order; name the images "
            "for both, by a dataset and the data_dir that it is in",
            about="baseline",
        )


def check_classes(ours: tuple[str, ...], theirs: tuple[str, ...]) -> None:
    """Refuses two networks that name other classes.

    Raises:
      UserError: they do.
    """
    if tuple(ours) != tuple(theirs):
        raise UserError(
            f"expected a run with the same {len(ours)} classes, found {len(theirs)} "
            f"({', '.join(list(theirs)[:3])}, ...); compare runs on one data set",
            about="baseline",
        )


def _on_other_data(
    config: ml_collections.ConfigDict, described: Description, other: OtherData
) -> ml_collections.ConfigDict:
    """The config with another part of its data, or other data at the size of the training."""
    result = copy.deepcopy(config)
    if other.dataset is None:
        if other.split is not None:
            result.data.eval_split, result.evaluation.sets = other.split, ()
        result.data.data_dir = other.data_dir or config.data.data_dir
        configuration.validate(result)  # digits are in no folder
        return result
    with result.unlocked():
        result.data.name = other.dataset
        result.data.data_dir = other.data_dir or ""
        result.data.eval_split = other.split or ""
        result.evaluation.sets = ()
        height, width, _ = described.image_shape
        result.data.resolution = height if height == width else 0  # of no square: as they are
    return result

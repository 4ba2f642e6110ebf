"""A trained network and the examples that it is asked about."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from didicm_jax import config as configuration
from didicm_jax import data, parallel
from didicm_jax.cli.options import OtherData
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.evaluation import loop
from didicm_jax.inference import posterior, trained
from didicm_jax.run import description


class Subject(NamedTuple):
    """A network, where it runs, and N examples."""

    folder: Path
    network: trained.Trained
    mesh: Mesh
    source: data.Source
    dataset_name: str
    class_names: tuple[str, ...]

    def ask(
        self,
        config: ml_collections.ConfigDict,
        proceed: Callable[[], bool],
        *,
        trajectory: bool = False,
    ) -> Callable[[data.Source], loop.Predictions]:
        """A function from examples to their posteriors by the sampler of `config`, compiled once.

        Args:
          config: of the run.
          proceed: called before each batch.
          trajectory: also keep the way to each posterior.
        """
        program = loop.make_predict(
            self.network.graphdef,
            posterior.create_traced(config, len(self.class_names), return_trajectory=trajectory),
            build.policy(config).eval,
            self.mesh,
            seed=config.seed,
        )
        # Padding is masked, so any number of devices will do.
        batch_size = parallel.round_up(config.evaluation.batch_size, self.mesh.size)

        def answer(source: data.Source) -> loop.Predictions:
            found = loop.collect(
                program,
                self.network.variables,
                source,
                self.mesh,
                batch_size=batch_size,
                proceed=proceed,
            )
            assert found is not None
            return found

        return answer


def open_subject(
    folder: Path, config: ml_collections.ConfigDict, checkpoint: str, other: OtherData
) -> Subject:
    """Reads a run's network, and the data to evaluate it on.

    Raises:
      UserError: there is no such checkpoint, or the data are not there or have other classes.
    """
    shown = _on_other_data(config, description.read(folder), other)
    dataset = build.dataset(shown)
    mesh = parallel.make_mesh()
    network = trained.restore(folder, checkpoint, config, mesh)
    _check_same(network.description, dataset, shown.data.name)
    source = dataset.test
    if other.examples is not None:
        # Whatever the seed of the run, so that runs are judged on the same.
        source = data.subset(source, count=min(other.examples, len(source)), seed=0)
    return Subject(folder, network, mesh, source, shown.data.name, dataset.class_names)


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def _on_other_data(
    config: ml_collections.ConfigDict, described: description.Description | None, other: OtherData
) -> ml_collections.ConfigDict:
    """The config with another part of its data, or other data at the size of the training."""
    result = copy.deepcopy(config)
    if other.dataset is None:
        result.data.eval_split = other.split or config.data.eval_split
        return result
    defaults = configuration.default().data
    with result.unlocked():
        for key in ("train_examples", "data_ratio", "train_split", "max_broken_share"):
            result.data[key] = defaults[key]
        result.data.name = other.dataset
        result.data.data_dir = other.data_dir or ""
        result.data.eval_split = other.split or ""
        if described is not None:
            result.data.resolution = described.image_shape[0]
    return result


def _check_same(described: description.Description, dataset: data.Dataset, name: str) -> None:
    """Refuses data that the network was not made for."""
    wanted, found = dataclasses.astuple(described), dataclasses.astuple(description.of(dataset))
    if wanted == found:
        return
    if described.image_shape != dataset.image_shape:
        shapes = ["x".join(map(str, shape)) for shape in (wanted[1], found[1])]
        raise UserError(
            f"--dataset: expected images of {shapes[0]}, as the run was trained with, found "
            f"{shapes[1]} in {name}; use another data set"
        )
    ours, theirs = described.class_names, dataset.class_names
    if len(ours) != len(theirs):
        raise UserError(
            f"--dataset: expected the {len(ours)} classes of the run, found {len(theirs)} in "
            f"{name}; use a data set with the same classes"
        )
    place = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    raise UserError(
        f"--dataset: expected the classes of the run, found class {place} to be "
        f"{theirs[place]!r} in {name} and {ours[place]!r} in the run; use a data set with the same "
        "classes in the same order"
    )

"""A trained network, read from the workdir of its run."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
from flax import nnx
from jax.sharding import Mesh

from didicm_jax import config as configuration
from didicm_jax import files, parallel
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.inference import sweep
from didicm_jax.run import description
from didicm_jax.run.checkpoints import Checkpoints
from didicm_jax.run.description import Description
from didicm_jax.training import optimizers, state


class Trained(NamedTuple):
    """What a run has learned, and how it sees the world."""

    config: ml_collections.ConfigDict
    description: Description  # of its data set
    graphdef: nnx.GraphDef
    variables: state.Variables  # to predict with: the averages, where the run keeps them
    step: int  # of the checkpoint


def read(workdir: Path, which: str, sampler: Mapping[str, Any], mesh: Mesh) -> Trained:
    """Reads a checkpoint of a run with its own config.

    Args:
      workdir: of the run; it is not written to.
      which: the `latest` or the `best` checkpoint.
      sampler: settings of `config.sampler` to change.
      mesh: the devices that get the variables.

    Raises:
      UserError: there is no run or no such checkpoint, it is damaged, or a setting is wrong.
    """
    return restore(workdir, which, read_config(workdir, sampler), mesh)


def restore(workdir: Path, which: str, config: ml_collections.ConfigDict, mesh: Mesh) -> Trained:
    """Reads a checkpoint of a run, and nothing else than the workdir.

    But for a run that was made before workdirs held `dataset.json`: its data set is opened.

    Args:
      workdir: of the run; it is not written to.
      which: the `latest` or the `best` checkpoint.
      config: the run's, other settings for evaluation included.
      mesh: the devices that get the variables.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    if which not in ("latest", "best"):
        raise UserError(f"checkpoint: expected 'latest' or 'best', found {which!r}; choose one")
    described = description.read(workdir) or _description_of_data(config, workdir)
    graphdef, _ = jax.eval_shape(lambda: _create(config, described))
    everywhere = parallel.replicated(mesh)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere),
        jax.eval_shape(lambda: create_state(config, _create(config, described)[1])),
    )
    with contextlib.closing(Checkpoints(workdir, create=False)) as checkpoints:
        step = checkpoints.best() if which == "best" else checkpoints.latest()
        if step is None:
            raise UserError(
                f"expected a {which} checkpoint in {workdir}, found none; train the run first"
            )
        # All of it is read, but what only training needs is gone when this returns.
        variables = checkpoints.restore(step, like).averaged
    return Trained(config, described, graphdef, variables, step)


def read_config(workdir: Path, sampler: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The run's config with these settings of the sampler, checked.

    Raises:
      UserError: there is no run, or a setting is wrong.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"expected a run in {workdir}, found no config.json; train one there first")
    config = configuration.from_json(files.read_json(path))
    return sweep.changed(config, sampler) if sampler else config


def _description_of_data(config: ml_collections.ConfigDict, workdir: Path) -> Description:
    try:
        return description.of(build.dataset(config))
    except UserError as error:
        raise UserError(
            f"{workdir}: expected dataset.json, which earlier runs do not have, or else the data "
            f"itself, found neither ({error})"
        ) from error


def _create(
    config: ml_collections.ConfigDict, described: Description
) -> tuple[nnx.GraphDef, state.Variables]:
    return state.split(build.model(config, described, nnx.Rngs(0)))


def create_state(config: ml_collections.ConfigDict, variables: state.Variables) -> state.TrainState:
    """The state at step 0 of a run with these variables."""
    settings = config.optimizer
    # The rate does not matter, only that it is a schedule, which counts its calls in the state.
    optimizer = optimizers.OPTIMIZERS[settings.name](
        lambda count: 0.0, weight_decay=settings.weight_decay, clip_norm=settings.clip_norm
    )
    return state.create(variables, optimizer, ema=config.train.ema_decay > 0)

"""A trained network, read from the folder of its run or from a bundle of three files."""

import contextlib
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from didicm_jax import data, files, parallel
from didicm_jax.config import build
from didicm_jax.errors import UserError
from didicm_jax.models.variables import Variables, split
from didicm_jax.run import Description, RunFolder, arrays
from didicm_jax.run.bundle import Bundle
from didicm_jax.run.saved import SavedCheckpoints


class Network(NamedTuple):
    """What a run has learned, and how it sees the world."""

    config: ml_collections.ConfigDict
    description: Description  # of its data set
    graphdef: nnx.GraphDef
    variables: Variables  # to predict with: the averages, where the run keeps them
    step: int  # of the checkpoint
    name: str  # of the folder that it was read from

    @property
    def eval_crop(self) -> float | None:
        """The share of an image's shorter side that it is shown; None for the whole image."""
        settings = self.config.data
        return None if data.shows_whole(settings.name) else settings.eval_crop


Trained = RunFolder | Bundle  # where a network comes from, opened


def load(folder: Trained, which: str, mesh: Mesh) -> Network:
    """Reads the weights of a checkpoint, and nothing else of it. Nothing is written.

    Args:
      folder: of the run, which may be changed to other settings for evaluation; or a bundle.
      which: the `latest` or the `best` checkpoint; a bundle has but one.
      mesh: the devices that get the variables.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it is of another network.
    """
    config, description = folder.config, folder.description
    name = files.resolved(folder.path).name  # "." has none
    # The structure of the network and the shapes of its arrays.
    graphdef, shapes = jax.eval_shape(lambda: split(build.model(config, description, nnx.Rngs(0))))
    everywhere = parallel.replicated(mesh)
    if isinstance(folder, Bundle):
        arrays.compare(folder.path, arrays.shapes(folder.variables), arrays.shapes(shapes))
        variables = jax.device_put(folder.variables, everywhere)
        return Network(config, description, graphdef, variables, folder.step, name)
    if which not in ("latest", "best"):
        raise UserError(
            f"expected 'latest' or 'best', found {which!r}; choose one", about="checkpoint"
        )
    # The fields of `training.state.TrainState`.
    field = "ema" if config.train.ema_decay > 0 else "variables"
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), {field: shapes}
    )
    with contextlib.closing(SavedCheckpoints(folder.path)) as checkpoints:
        step = checkpoints.best() if which == "best" else checkpoints.latest()
        # A run that is trained meanwhile soon has another one: what process 0 has found decides.
        step = int(parallel.gather(np.array([-1 if step is None else step]))[0])
        if step < 0:
            raise UserError(
                f"expected a {which} checkpoint in {folder.path}, found none; train the run first",
                about="checkpoint",
            )
        variables = checkpoints.restore_part(step, like)[field]
    return Network(config, description, graphdef, variables, step, name)

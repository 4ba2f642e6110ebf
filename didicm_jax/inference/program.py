"""One program from the bytes of images to posteriors, for whoever asks a network.

Shapes: `B` images of `[H, W, C]` in a batch over all processes, `b` of them on this one, `K`
classes.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from didicm_jax.config import build
from didicm_jax.inference import sampling, sweep
from didicm_jax.inference.sampling import Answer, Posterior
from didicm_jax.parallel import AXIS, shard

# What makes the key of an image's views from that of its sampler, which numbers its own from 0.
_VIEWS = 2**32 - 1


class Program:
    """The map from bytes to posteriors of one network and one sampler, over the devices of a mesh.

    Compiled once for each batch size. What a sampler draws for an example is a function of the seed
    and of the example's index, and not of the batch or the device that the example falls into.
    """

    def __init__(
        self,
        graphdef: nnx.GraphDef,
        answer: Answer,
        look: Callable[[chex.PRNGKey, chex.Array], chex.Array],
        mesh: Mesh,
        *,
        seed: int,
    ) -> None:
        """Takes the parts; `create` takes them from a config.

        Args:
          graphdef: structure of the network.
          answer: from `sampling.create`.
          look: `(keys key[B], images u8[B,H,W,C]) -> f32[V,B,H,W,C]`, V views of each image.
          mesh: one axis, `data`; each device takes its share of a batch.
          seed: of samplers that draw.
        """
        self.mesh = mesh
        self._graphdef, self._answer, self._look = graphdef, answer, look
        self._seed = seed
        specs = (PartitionSpec(), PartitionSpec(AXIS))
        self._mapped = jax.jit(
            jax.shard_map(self.apply, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS))
        )

    def __call__(self, variables: chex.ArrayTree, batch: Mapping[str, np.ndarray]) -> Posterior:
        """Starts the work on a batch; the result is on the devices.

        Args:
          variables: `(params, stats)` on every device of the mesh.
          batch: this process's rows: `image` u8[b,H,W,C] and `index` [b], the number of each.
        """
        given = {"image": batch["image"], "index": batch["index"].astype(np.int32)}
        with jax.set_mesh(self.mesh):  # the caller may have set another, on which this cannot run
            return self._mapped(variables, shard(given, self.mesh))

    def trace(
        self, variables: chex.ArrayTree, image_shape: tuple[int, int, int], batch_size: int
    ) -> Posterior:
        """Shapes and types of the posteriors of a batch, with nothing computed or compiled.

        Whatever the network or the sampler refuses, it refuses here: call it before a step is paid
        for.

        Args:
          variables: `(params, stats)`, or `jax.ShapeDtypeStruct`s of them.
          image_shape: height, width and channels.
          batch_size: B, a multiple of the devices of the mesh.
        """
        with jax.set_mesh(self.mesh):
            return jax.eval_shape(self._mapped, variables, self._abstract(image_shape, batch_size))

    def lower(
        self, variables: chex.ArrayTree, image_shape: tuple[int, int, int], batch_size: int
    ) -> jax.stages.Lowered:
        """The program of a batch, to compile it; see `trace` for the arguments."""
        with jax.set_mesh(self.mesh):
            return self._mapped.lower(variables, self._abstract(image_shape, batch_size))

    def _abstract(
        self, image_shape: tuple[int, int, int], batch_size: int
    ) -> dict[str, jax.ShapeDtypeStruct]:
        rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        return {
            "image": jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8, sharding=rows),
            "index": jax.ShapeDtypeStruct((batch_size,), jnp.int32, sharding=rows),
        }

    def apply(self, variables: chex.ArrayTree, batch: Mapping[str, chex.Array]) -> Posterior:
        """The map itself, of `image` u8[B,H,W,C] and `index` i32[B]; jit or export it."""
        model: Any = nnx.merge(self._graphdef, *variables)
        model.eval()
        # Whatever JAX's default is: of others `jax.vmap` reads but the first key of a batch.
        key = jax.random.key(self._seed, impl="threefry2x32")
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch["index"])
        for_views = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, _VIEWS)
        found = self._answer(model, self._look(for_views, batch["image"]), keys)
        # Where JAX has 64 bits the times of a sampler have them, and so has what it makes of them.
        way = found.trajectory
        return found._replace(
            probs=found.probs.astype(jnp.float32),
            trajectory=None if way is None else way.astype(jnp.float32),
        )


def create(
    config: ml_collections.ConfigDict,
    graphdef: nnx.GraphDef,
    num_classes: int,
    mesh: Mesh,
    *,
    trajectory: bool = False,
) -> Program:
    """The program of a run's network with the sampler of its config.

    Args:
      config: of the run.
      graphdef: structure of its network.
      num_classes: K.
      mesh: the devices.
      trajectory: also give the way to each posterior, where the sampler has one.
    """
    policy = build.policy(config, mesh.devices.flat[0].platform)
    return Program(
        graphdef,
        sampling.create(config, num_classes, trajectory=trajectory),
        partial(policy.views, count=sweep.views(config)),
        mesh,
        seed=config.seed,
    )

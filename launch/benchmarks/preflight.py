"""Networks compiled for devices that are not there, beside those of others: what a step costs.

`launch/bench.py preflight --topology=v5e:2x2 [--peer=big_vision:DIR|flax:DIR]`; DIR is a checkout
of it. A step is forward, backward and SGD of 64 images of 224 px in bfloat16, on one device and
with no augmentation. Nothing is run.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmarks.networks import Setting, abstract
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from didicm_jax.errors import UserError
from didicm_jax.models.variables import Variables, split
from didicm_jax.preflight import estimate, execution, hlo, topologies
from didicm_jax.preflight.topologies import Topology

_SETTING = Setting(64, 224, 1000, jnp.bfloat16)
_COSTS = ("estimated_milliseconds", "traffic_bytes", "kernels")  # of those of `estimate.cost`
# The stem of the ResNet is that of the peers.
_OURS: dict[str, dict[str, Any]] = {"vit_s16": {}, "resnet50": {"stem": "imagenet"}}


class Network(NamedTuple):
    """A classifier as a pure function."""

    variables: Variables  # shapes and types
    logits: Callable[[Variables, Any], tuple[Any, Any]]  # (variables, images) -> those and stats


def run(topology: str, peer: str | None = None) -> Iterator[dict[str, Any]]:
    """Compiles ours, then the peer's.

    Args:
      topology: as `--mode=preflight` takes it.
      peer: `NAME:DIR` with a name of `PEERS`.

    Raises:
      UserError: there are no such devices, no such peer, or no compiler for them.

    Yields:
      A record each: XLA's estimate for a TPU, or the bytes that the kernels of a GPU move.
    """
    name, _, folder = (peer or "").partition(":")
    if peer is not None and not (name in PEERS and folder and Path(folder).is_dir()):
        raise UserError(
            f"expected one of {', '.join(PEERS)} with the folder of its checkout, such as "
            f"{next(iter(PEERS))}:DIR, found {peer!r}; change it",
            about="peer",
        )
    found = topologies.find(topology)
    topologies.prepare(found)
    makers: dict[str, Callable[[], Network]] = {each: partial(_ours, each) for each in _OURS}
    if peer is not None:
        makers[name] = partial(PEERS[name], Path(folder))
    for label, make in makers.items():
        yield _record(label, make(), found)


def _ours(name: str) -> Network:
    graphdef, variables = abstract(name, _SETTING, _OURS[name])

    def logits(variables: Variables, images: Any) -> tuple[Any, Any]:
        model = nnx.merge(graphdef, *variables)
        model.train()
        return model(images), split(model)[1].stats

    return Network(variables, logits)


def _big_vision(folder: Path) -> Network:
    sys.path.insert(0, str(folder))
    # Of it the ViT needs what reads checkpoints, and that needs TensorFlow.
    sys.modules["big_vision.utils"] = types.ModuleType("big_vision.utils")
    vit = importlib.import_module("big_vision.models.vit")
    return _linen(
        vit.Model(1000, variant="S/16", posemb="sincos2d", pool_type="gap", dtype_mm="bfloat16"),
        lambda result: result[0],
    )


def _flax(folder: Path) -> Network:
    file = folder / "examples" / "imagenet" / "models.py"
    spec = importlib.util.spec_from_file_location("flax_imagenet_models", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return _linen(module.ResNet50(num_classes=1000, dtype=jnp.bfloat16), lambda result: result)


# Of big_vision the ViT-S/16, of Flax's examples the ResNet-50.
PEERS = {"big_vision": _big_vision, "flax": _flax}


def _linen(network: Any, answer: Callable[[Any], Any]) -> Network:
    images = jnp.zeros((1, *_SETTING.image_shape))
    made = jax.eval_shape(lambda: network.init(jax.random.key(0), images, train=False))

    def logits(variables: Variables, images: Any) -> tuple[Any, Any]:
        everything = {"params": variables.params, **variables.stats}

        def apply(images: Any) -> tuple[Any, Any]:
            return network.apply(everything, images, train=True, mutable=[*variables.stats])

        if not variables.stats:
            return answer(apply(images)[0]), {}
        # Flax's ResNet shares its statistics along an axis, which has one device here.
        result, stats = jax.vmap(apply, axis_name="batch")(images[None])
        return jax.tree.map(lambda x: x[0], (answer(result), stats))

    stats = {key: value for key, value in made.items() if key != "params"}
    return Network(Variables(made["params"], stats), logits)


def _record(name: str, network: Network, topology: Topology) -> dict[str, Any]:
    def step(variables: Variables, images: Any, targets: Any) -> tuple[Variables, Any]:
        def loss(params: Any) -> tuple[Any, Any]:
            logits, stats = network.logits(variables._replace(params=params), images)
            return optax.softmax_cross_entropy(logits, targets).mean(), stats

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(variables.params)
        params = jax.tree.map(lambda x, slope: x - 0.1 * slope, variables.params, gradient)
        return Variables(params, stats), value

    mesh = Mesh(np.array(topologies.devices(topology)[:1]), ("data",))
    place = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        (
            network.variables,
            jax.ShapeDtypeStruct((_SETTING.batch, *_SETTING.image_shape), jnp.float32),
            jax.ShapeDtypeStruct((_SETTING.batch, _SETTING.num_classes), jnp.float32),
        ),
    )
    # Of others' code not what strict promotion asks for.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        lowered = jax.jit(step, donate_argnums=0).lower(*shapes)
    compiled = lowered.compile(compiler_options=topologies.compiler_options(topology))
    memory: Any = compiled.memory_analysis()
    return {
        "benchmark": f"preflight/{name}",
        "topology": topology.name,
        "batch": _SETTING.batch,
        "temporary_bytes": memory.temp_size_in_bytes,
    } | cost(hlo.Program(compiled.as_text() or ""), topology)


def cost(program: hlo.Program, topology: Topology) -> dict[str, Any]:
    """Estimated milliseconds on a TPU, bytes that kernels read and write on a GPU."""
    found = estimate.cost(program, list(execution.executions(program)), topology)
    return {key: found[key] for key in _COSTS if found.get(key) is not None}

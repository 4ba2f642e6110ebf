"""What an evaluation costs beyond the passes of its network: `launch/bench.py evaluate`.

Everything counts: batches, transfers, the sampler, metrics. Compared with as many passes of the
network alone, on batches that lie on the device.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import networks
from benchmarks.networks import Setting
from benchmarks.timing import describe_device, in_turns, ratios
from flax import nnx

from didicm_jax import config as configuration
from didicm_jax import data
from didicm_jax.evaluation import loop
from didicm_jax.inference import program
from didicm_jax.parallel import make_mesh, replicated

_RESOLUTION, _CLASSES, _STEPS = 28, 10, 8
_OPTIONS = {"in_channels": 1, "stem": "small", "width": 0.25}


def run(images: int = 10_000, batch: int = 500, repeats: int = 3) -> Iterator[dict[str, Any]]:
    """Measures the evaluation of a fully conditioned DiDiRN-18 on images of 28x28.

    Args:
      images: how many; a multiple of `batch`.
      batch: images at a time.
      repeats: rounds; in each, both are run once.
    """
    size = Setting(batch, _RESOLUTION, _CLASSES, jnp.float32)
    graphdef, variables = networks.create("didirn18", size, _OPTIONS)
    mesh = make_mesh(jax.local_devices()[:1])
    variables = jax.device_put(variables, replicated(mesh))
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (images, _RESOLUTION, _RESOLUTION, 1), dtype=np.uint8)
    source = data.ArraySource(pixels, random.integers(0, _CLASSES, images))
    config = configuration.default()
    config.sampler.steps = _STEPS
    predict = program.create(config, graphdef, _CLASSES, mesh)
    resident = jnp.zeros((batch, _RESOLUTION, _RESOLUTION, 1))
    labels, sigma = jnp.zeros(batch, jnp.int32), jnp.ones(batch)

    @jax.jit
    def one_pass(variables: Any, images: jax.Array) -> jax.Array:
        model = nnx.merge(graphdef, *variables)
        model.eval()
        return model.score(model.encode(images), labels, sigma)

    def passes() -> None:
        for _ in range(_STEPS * images // batch):
            one_pass(variables, resident).block_until_ready()

    def evaluate() -> None:
        loop.evaluate(predict, variables, source, batch_size=batch)

    rounds = in_turns({"evaluate": evaluate, "passes": passes}, repeats=repeats)
    yield {
        "benchmark": "evaluate",
        "images": images,
        "resolution": _RESOLUTION,
        "batch": batch,
        "steps": _STEPS,
        "seconds": sorted(rounds["evaluate"])[repeats // 2],
        "passes_seconds": sorted(rounds["passes"])[repeats // 2],
        "versus": "the passes of the network alone",
        **ratios(rounds["evaluate"], rounds["passes"]),
        "target": 1.1,
        **describe_device(),
    }

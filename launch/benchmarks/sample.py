"""What a posterior costs, in passes of the plain network: `launch/bench.py sample`.

The image is encoded once, and only the conditioned part runs at every step.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from benchmarks import networks
from benchmarks.networks import Family, Late, Program, Setting, milliseconds
from benchmarks.timing import describe_device, in_turns, ratios
from flax import nnx

from didicm_jax import diffusion
from didicm_jax.training import operations

_SCHEDULE = diffusion.loglinear()


def run(
    batch: int | None = None,
    resolution: int = 224,
    repeats: int = 5,
    num_classes: int = 1000,
    steps: int = 8,
    families: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measures the class-probability sampler against one pass of the plain network.

    Args:
      batch: images per call; None is 4 in float32 on a CPU, 64 in bfloat16 elsewhere.
      resolution: pixels per side.
      repeats: rounds; in each, every program of a family runs once.
      num_classes: K.
      steps: of the sampler.
      families: names of score models in `networks.FAMILIES`; None for all.

    Yields:
      One record per score model: per image gigaflops and milliseconds, of the plain network's pass
      and of the posterior, and their ratios with the targets. The flops are those of the encoder
      and, for each step, of the conditioned part: the sampler is a loop, whose body counts once.
    """
    size = networks.setting(batch=batch, on_cpu=4, resolution=resolution, num_classes=num_classes)
    images = jax.random.normal(jax.random.key(0), (size.batch, resolution, resolution, 3))
    for family in networks.chosen(families):
        plain = _plain(family, size, images)
        programs = [_sampler(family, late, size, images, steps) for late in family.variants]
        cases = list(zip(family.variants, programs, strict=True))
        calls = {late.conditioned: program.call for late, program in cases}
        rounds = in_turns({"plain": plain.call, **calls}, repeats=repeats)
        for late, program in cases:
            yield {
                "benchmark": f"sample/{family.score_model}/{late.conditioned}",
                "plain": family.plain,
                "batch": size.batch,
                "resolution": resolution,
                "classes": num_classes,
                "steps": steps,
                "dtype": jnp.dtype(size.dtype).name,
                "plain_gigaflops": plain.flops / 1e9,
                "gigaflops": program.flops / 1e9,
                "plain_milliseconds": milliseconds(rounds["plain"], size),
                "milliseconds": milliseconds(rounds[late.conditioned], size),
                "flops_ratio": program.flops / plain.flops,
                "versus": "a pass of the plain network",
                **ratios(rounds[late.conditioned], rounds["plain"]),
                "target": late.sampling if steps == 8 else None,
                **describe_device(),
            }


def _model(graphdef: nnx.GraphDef, variables: Any) -> Any:
    model = nnx.merge(graphdef, *variables)
    model.eval()
    return model


def _plain(family: Family, size: Setting, images: jax.Array) -> Program:
    graphdef, variables = networks.create(family.plain, size)

    @jax.jit
    def posterior(variables: Any, images: jax.Array) -> jax.Array:
        return jax.nn.softmax(_model(graphdef, variables)(images))

    compiled = posterior.lower(variables, images).compile()
    passes = operations.of_passes(graphdef, variables, (size.resolution, size.resolution, 3))
    return Program(partial(compiled, variables, images), passes.of(1))


def _sampler(family: Family, late: Late, size: Setting, images: jax.Array, steps: int) -> Program:
    graphdef, variables = networks.create(family.score_model, size, late.options)

    @jax.jit
    def posterior(variables: Any, images: jax.Array) -> jax.Array:
        model = _model(graphdef, variables)
        return diffusion.sample_cp(
            partial(model.score, model.encode(images)),
            _SCHEDULE,
            batch_size=size.batch,
            num_classes=size.num_classes,
            steps=steps,
        ).probs

    compiled = posterior.lower(variables, images).compile()
    passes = operations.of_passes(graphdef, variables, (size.resolution, size.resolution, 3))
    return Program(partial(compiled, variables, images), passes.of(steps))

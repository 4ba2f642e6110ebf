"""What a posterior costs, in passes of the plain network: `launch/bench.py sample`.

The image is encoded once, and only the conditioned part runs at every step.
"""

from collections.abc import Iterator
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
_STEPS = 8  # of the sampler


def run(repeats: int = 5) -> Iterator[dict[str, Any]]:
    """Measures the class-probability sampler against one pass of the plain network.

    Args:
      repeats: rounds; in each, every program of a family runs once.

    Yields:
      One record per score model: per image gigaflops and milliseconds, of the plain network's pass
      and of the posterior, and their ratios with the targets. The flops are those of the encoder
      and, for each step, of the conditioned part: the sampler is a loop, whose body counts once.
    """
    size = networks.setting(on_cpu=4)
    images = jax.random.normal(jax.random.key(0), (size.batch, *size.image_shape))
    for family in networks.FAMILIES:
        plain = _plain(family, size, images)
        programs = [_sampler(family, late, size, images) for late in family.variants]
        cases = list(zip(family.variants, programs, strict=True))
        calls = {late.conditioned: program.call for late, program in cases}
        rounds = in_turns({"plain": plain.call, **calls}, repeats=repeats)
        for late, program in cases:
            yield {
                "benchmark": f"sample/{family.score_model}/{late.conditioned}",
                "plain": family.plain,
                "batch": size.batch,
                "resolution": size.resolution,
                "classes": size.num_classes,
                "steps": _STEPS,
                "dtype": jnp.dtype(size.dtype).name,
                "plain_gigaflops": plain.flops / 1e9,
                "gigaflops": program.flops / 1e9,
                "plain_milliseconds": milliseconds(rounds["plain"], size),
                "milliseconds": milliseconds(rounds[late.conditioned], size),
                "flops_ratio": program.flops / plain.flops,
                "versus": "a pass of the plain network",
                **ratios(rounds[late.conditioned], rounds["plain"]),
                "target": late.sampling,
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
    passes = operations.of_passes(graphdef, variables, size.image_shape)
    return Program(partial(compiled, variables, images), passes.of(1))


def _sampler(family: Family, late: Late, size: Setting, images: jax.Array) -> Program:
    graphdef, variables = networks.create(family.score_model, size, late.options)

    @jax.jit
    def posterior(variables: Any, images: jax.Array) -> jax.Array:
        model = _model(graphdef, variables)
        return diffusion.sample_cp(
            partial(model.score, model.encode(images)),
            _SCHEDULE,
            batch_size=size.batch,
            num_classes=size.num_classes,
            steps=_STEPS,
        ).probs

    compiled = posterior.lower(variables, images).compile()
    passes = operations.of_passes(graphdef, variables, size.image_shape)
    return Program(partial(compiled, variables, images), passes.of(_STEPS))

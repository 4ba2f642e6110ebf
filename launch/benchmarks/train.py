"""What a training step costs, in steps of the plain classifier: `launch/bench.py train`.

Many draws of noise and label share one encoding of the image, and only the conditioned part of the
network runs once per draw.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import networks
from benchmarks.networks import Program, Setting, milliseconds
from benchmarks.timing import describe_device, in_turns, ratios

from didicm_jax import augment, diffusion, parallel
from didicm_jax.training import objectives, operations, optimizers, state
from didicm_jax.training.step import make_local_gradients, make_train_step

_POLICY = augment.Policy(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
_DRAWS = (1, 4, 8)  # of noise and label, for an image


def run(repeats: int = 5) -> Iterator[dict[str, Any]]:
    """Measures whole training steps (forward, backward, LAMB), without augmentation.

    Args:
      repeats: rounds; in each, every step of a family runs once.

    Yields:
      One record per score model and number of draws: per image gigaflops and milliseconds, of the
      plain classifier's step and of the diffusion's, and their ratios with the target.
    """
    size = networks.setting(on_cpu=2)
    for family in networks.FAMILIES:
        plain = make_step(family.plain, size, {}, objectives.cross_entropy)
        cases = {
            (late.conditioned, count): (
                late,
                make_step(
                    family.score_model,
                    size,
                    late.options,
                    objectives.DiDiCM(diffusion.loglinear(), draws_per_image=count),
                ),
            )
            for late in family.variants
            for count in _DRAWS
        }
        calls = {key: step.call for key, (_, step) in cases.items()}
        rounds = in_turns({"plain": plain.call, **calls}, repeats=repeats)
        for key, (late, step) in cases.items():
            yield {
                "benchmark": f"train/{family.score_model}/{late.conditioned}",
                "plain": family.plain,
                "draws_per_image": key[1],
                "batch": size.batch,
                "resolution": size.resolution,
                "classes": size.num_classes,
                "dtype": jnp.dtype(size.dtype).name,
                "plain_gigaflops": plain.flops / 1e9,
                "gigaflops": step.flops / 1e9,
                "plain_milliseconds": milliseconds(rounds["plain"], size),
                "milliseconds": milliseconds(rounds[key], size),
                "flops_ratio": step.flops / plain.flops,
                "versus": "a step of the plain classifier",
                **ratios(rounds[key], rounds["plain"]),
                "target": late.training if key[1] == 8 else None,
                **describe_device(),
            }


def make_step(
    name: str,
    size: Setting,
    options: dict[str, Any],
    objective: objectives.Objective,
    policy: augment.Policy = _POLICY,
) -> Program:
    """A step called on its own result."""
    graphdef, variables = networks.create(name, size, options)
    mesh = parallel.one_device()
    local = make_local_gradients(
        graphdef,
        objective,
        lambda keys, images, labels, index: policy.train(
            keys, images, labels, size.num_classes, index
        ),
        seed=0,
    )
    # The least rate: what is timed is that of a network whose weights stay finite.
    optimizer = optimizers.lamb(1e-8, weight_decay=0.01, clip_norm=1.0)
    step = make_train_step(local, optimizer, mesh)
    first = state.create(variables, optimizer, ema=False)
    current = [jax.device_put(first, parallel.replicated(mesh))]
    generator = np.random.default_rng(0)
    shape = (size.batch, *size.image_shape)
    inputs: dict[str, np.ndarray] = {
        "image": generator.integers(0, 256, shape, dtype=np.uint8),
        "label": generator.integers(0, size.num_classes, size.batch, dtype=np.int32),
        "index": np.arange(size.batch, dtype=np.int32),
    }
    batch = parallel.shard(inputs, mesh)
    batch |= {key: parallel.from_hosts(0, mesh) for key in ("stop", "replaced")}
    compiled = step.lower(current[0], batch).compile()  # type: ignore[attr-defined]
    counted: Any = make_train_step(local, optimizer, parallel.make_mesh([operations.cpu()]))
    flops = operations.count(counted.trace(*jax.eval_shape(lambda: (first, batch))))

    def call() -> Any:
        current[0], metrics = compiled(current[0], batch)
        return metrics

    return Program(call, flops / size.batch)

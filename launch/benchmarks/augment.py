"""How fast the recipes' augmentation is on this machine's device: `launch/bench.py augment`."""

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.networks import Setting
from benchmarks.timing import describe_device, seconds
from benchmarks.train import make_step

from didicm_jax import augment, diffusion
from didicm_jax.training import objectives

_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_BATCH, _RESOLUTIONS, _CLASSES = 128, (56, 112, 224), 1000
_POLICIES = {
    "none": augment.Policy(**_IMAGENET),
    "weak": augment.Policy(**_IMAGENET, flip=True, color_jitter=0.4),
    "strong": augment.Policy(
        **_IMAGENET,
        flip=True,
        rand_augment="rand-m7-mstd0.5-inc1",
        mixup=0.2,
        cutmix=1.0,
        label_smoothing=0.1,
    ),
}


def run(repeats: int = 10) -> Iterator[dict[str, Any]]:
    """Times one jitted `Policy.train` per recipe and resolution, from bytes to network input.

    Every repeat has new keys, for the strong recipe's work depends on what is drawn. Images are
    random low-frequency patterns; their content does not change the work. On accelerators the
    training step of DiDiRN-50 that the augmentation is a part of is timed too; on a CPU it takes
    minutes.

    Args:
      repeats: timed calls, after one that compiles.

    Yields:
      One record per policy and resolution: milliseconds (median, fastest, slowest), images per
      second at the median, and XLA's estimate of floating-point operations and bytes. XLA counts
      the body of a loop once, so for RandAugment, whose passes are loops over groups of images,
      both are lower bounds. `floor_bytes` is what any implementation moves: bytes in, floats out.
    """
    for resolution in _RESOLUTIONS:
        images, labels = _batch(resolution)
        for name, policy in _POLICIES.items():
            policy = dataclasses.replace(policy, gathers=jax.default_backend() != "tpu")
            rounds, cost = _policy_seconds(policy, images, labels, repeats)
            median = statistics.median(rounds)
            record = {
                "benchmark": f"augment/{name}",
                "batch": _BATCH,
                "resolution": resolution,
                "milliseconds": 1000 * median,
                "milliseconds_min": 1000 * min(rounds),
                "milliseconds_max": 1000 * max(rounds),
                "images_per_second": _BATCH / median,
                "flops": cost.get("flops"),
                "bytes": cost.get("bytes accessed"),
                "floor_bytes": images.size * 5 + 4 * _BATCH * _CLASSES,
                **describe_device(),
            }
            if jax.default_backend() != "cpu":
                size = Setting(_BATCH, resolution, _CLASSES, jnp.bfloat16)
                objective = objectives.DiDiCM(diffusion.loglinear())
                step = make_step("didirn50", size, {}, objective, policy=policy)
                whole = statistics.median(seconds(step.call, repeats=repeats))
                record |= {"step_milliseconds": 1000 * whole, "share_of_step": median / whole}
            yield record


def _policy_seconds(
    policy: augment.Policy, images: jax.Array, labels: jax.Array, repeats: int
) -> tuple[list[float], dict[str, float]]:
    """Seconds of each call of `policy.train`, and XLA's account of it."""
    train = jax.jit(policy.train, static_argnums=3)
    # New keys for every call: the strong recipe's work depends on what is drawn.
    keys = iter(jax.random.split(jax.random.key(0), (repeats + 2, len(labels))))
    compiled = train.lower(next(keys), images, labels, _CLASSES).compile()
    rounds = seconds(lambda: compiled(next(keys), images, labels), repeats=repeats)
    cost: Any = compiled.cost_analysis()
    return rounds, cost or {}


def _batch(resolution: int) -> tuple[jax.Array, jax.Array]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (_BATCH, 8, 8, 3), dtype=np.uint8)
    repeat = -(-resolution // 8)
    images = coarse.repeat(repeat, axis=1).repeat(repeat, axis=2)[:, :resolution, :resolution]
    labels = generator.integers(0, _CLASSES, _BATCH, dtype=np.int32)
    return jax.device_put(images), jax.device_put(labels)

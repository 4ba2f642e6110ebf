"""How fast the recipes' augmentation is on this machine's device: `launch/bench.py augment`."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from didicm_jax import augment

_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
POLICIES = {
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


def run(
    batch: int = 128,
    resolutions: Sequence[int] = (56, 112, 224),
    repeats: int = 10,
    num_classes: int = 1000,
    policies: Sequence[str] = tuple(POLICIES),
) -> Iterator[dict[str, Any]]:
    """Times one jitted `Policy.train` per recipe and resolution, from bytes to network input.

    Every repeat has new keys, for the strong recipe's work depends on what is drawn. Images are
    random low-frequency patterns; their content does not change the work.

    Args:
      batch: images per call.
      resolutions: pixels per side.
      repeats: timed calls, after one that compiles.
      num_classes: width of the targets.
      policies: names in `POLICIES`.

    Yields:
      One record per policy and resolution: milliseconds (median, fastest, slowest), images per
      second at the median, and XLA's estimate of floating-point operations and bytes. XLA counts
      the body of a loop once, so for RandAugment, whose passes are loops over groups of images,
      both are lower bounds. `floor_bytes` is what any implementation moves: bytes in, floats out.
    """
    device = jax.devices()[0]
    for resolution in resolutions:
        images, labels = _batch(batch, resolution, num_classes)
        for name in policies:
            train = jax.jit(POLICIES[name].train, static_argnums=3)
            keys = jax.random.split(jax.random.key(0), (repeats + 1, batch))
            compiled = train.lower(keys[0], images, labels, num_classes).compile()
            times = []
            for turn in range(repeats + 1):
                arguments = jax.block_until_ready((keys[turn], images, labels))
                start = time.perf_counter()
                jax.block_until_ready(compiled(*arguments))
                times.append(1000 * (time.perf_counter() - start))
            median = float(np.median(times[1:]))
            cost = compiled.cost_analysis() or {}
            yield {
                "name": f"augment/{name}",
                "batch": batch,
                "resolution": resolution,
                "milliseconds": median,
                "milliseconds_min": min(times[1:]),
                "milliseconds_max": max(times[1:]),
                "images_per_second": 1000 * batch / median,
                "flops": cost.get("flops"),
                "bytes": cost.get("bytes accessed"),
                "floor_bytes": images.size * 5 + 4 * batch * num_classes,
                "backend": device.platform,
                "device": device.device_kind,
            }


def _batch(batch: int, resolution: int, num_classes: int) -> tuple[jax.Array, jax.Array]:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (batch, 8, 8, 3), dtype=np.uint8)
    repeat = -(-resolution // 8)
    images = coarse.repeat(repeat, axis=1).repeat(repeat, axis=2)[:, :resolution, :resolution]
    labels = generator.integers(0, num_classes, batch, dtype=np.int32)
    return jax.device_put(images), jax.device_put(labels)

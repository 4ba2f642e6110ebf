"""Timing shared by the benchmarks: whole calls, warmed up, medians over repeats."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(call: Callable[[], Any], *, repeats: int, count: int = 1) -> list[float]:
    """Seconds per call in each of `repeats` rounds of `count` calls, after one warm-up call."""
    jax.block_until_ready(call())
    rounds = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(count):
            result = call()
        jax.block_until_ready(result)
        rounds.append((time.perf_counter() - start) / count)
    return rounds


def median_seconds(call: Callable[[], Any], *, repeats: int, count: int = 1) -> float:
    """The median of `seconds`."""
    return statistics.median(seconds(call, repeats=repeats, count=count))


def describe_device() -> dict[str, str]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {"backend": device.platform, "device": device.device_kind}

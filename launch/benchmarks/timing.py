"""Timing shared by the benchmarks: whole calls, warmed up, medians over repeats."""

import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
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


def in_turns(
    calls: dict[Any, Callable[[], Any]],
    *,
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, list[float]]:
    """Seconds of each call in each of `repeats` rounds, after one warm-up call of each.

    A round makes every call once, so that what else the machine does meets all of them: ratios
    within a round mean more than the seconds do. `time.process_time` as the clock counts those of
    the processor.
    """
    rounds: dict[Any, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            jax.block_until_ready(call())
            rounds[name].append(clock() - start)
    return rounds


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """The median of ratios, and the smallest and the largest of them."""
    return {
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
    }


def ratios(rounds: Sequence[float], base: Sequence[float]) -> dict[str, float]:
    """How many times as long as `base` each round took: `spread` of that."""
    return spread([a / b for a, b in zip(rounds, base, strict=True)])


def peak_bytes() -> int:
    """The most memory that this process has had; it never falls again."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the parent had when it made this process
        match = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if match:
            return int(match[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe_device() -> dict[str, str]:
    """What the figures were measured on."""
    device = jax.devices()[0]
    return {"backend": device.platform, "device": device.device_kind}

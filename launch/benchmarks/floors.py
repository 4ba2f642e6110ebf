"""What this machine can do at best: bytes copied and numbers multiplied a second.

A kernel that moves bytes cannot be faster than a copy of as many, nor a network than a product of
matrices with as many operations.
"""

import functools
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from benchmarks.timing import describe_device, seconds, spread

from didicm_jax import diffusion
from didicm_jax.training import operations

_MATRIX = 2048


def copy_rate(count: int, repeats: int) -> float:
    """Bytes a second, read and written, where one array of `count` float32 becomes another.

    Measured at the size of the kernel that it is the floor of: what fits into a cache is faster.
    """
    x = jnp.ones(count, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    rounds = seconds(lambda: copy(x), repeats=repeats, count=_calls(8 * count))
    return 8 * count / statistics.median(rounds)


def matrix_rate(repeats: int, dtype: Any = jnp.float32) -> float:
    """Floating-point operations a second of a product of two large matrices."""
    x = jnp.ones((_MATRIX, _MATRIX), dtype)
    product = jax.jit(lambda x: x @ x)
    return 2 * _MATRIX**3 / statistics.median(seconds(lambda: product(x), repeats=repeats))


def run(batch: int = 4096, num_classes: int = 1000, repeats: int = 9) -> Iterator[dict[str, Any]]:
    """Measures each diffusion kernel against a copy of the bytes that it must move.

    Args:
      batch: B.
      num_classes: K.
      repeats: rounds.

    Yields:
      One record per kernel: microseconds, the bytes that any implementation reads and writes, and
      how many times as long as their copy it takes; first the rates of the machine.
    """
    size = batch * num_classes
    rate = copy_rate(size, repeats)
    yield {
        "benchmark": "floors/machine",
        "copied_gigabytes_per_second": rate / 1e9,
        "matrix_gigaflops_per_second": matrix_rate(repeats) / 1e9,
        **describe_device(),
    }
    for name, (kernel, arrays, moved) in _kernels(batch, num_classes).items():
        traced = jax.jit(kernel).trace(*arrays)
        call = functools.partial(traced.lower().compile(), *arrays)
        rounds = seconds(call, repeats=repeats, count=_calls(4 * size))
        floor = moved / rate
        yield {
            "benchmark": f"floors/{name}",
            "batch": batch,
            "classes": num_classes,
            "microseconds": 1e6 * statistics.median(rounds),
            "megabytes": moved / 1e6,
            "operations_per_byte": operations.count(traced) / moved,
            "versus": "a copy of the bytes that it must move",
            **spread([each / floor for each in rounds]),
            "target": 3.0,
            **describe_device(),
        }


def _kernels(batch: int, num_classes: int) -> dict[str, Any]:
    """Each kernel, its arguments, and the bytes of arrays `[B, K]` that it cannot but move."""
    array = 4 * batch * num_classes
    key = jax.random.key(0)
    log_score = jax.random.normal(key, (batch, num_classes))
    probs = jax.nn.softmax(log_score)
    labels = jax.random.randint(key, (batch,), 0, num_classes)
    time = jax.random.uniform(key, (batch,), minval=1e-3)
    schedule = diffusion.loglinear()
    sigma, sigma_next = schedule.total(time), schedule.total(0.9 * time)

    def loss(log_score: jax.Array, probs: jax.Array) -> jax.Array:
        return diffusion.weighted_score_entropy(log_score, probs, labels, time, schedule)

    def gradient(log_score: jax.Array, probs: jax.Array) -> jax.Array:
        return jax.grad(lambda x: loss(x, probs).sum())(log_score)

    def euler(log_score: jax.Array, probs: jax.Array) -> jax.Array:
        stepped = diffusion.euler_cp_step(probs, log_score, jnp.full(batch, 0.1))
        stepped = jnp.clip(stepped, 0.0, 1.0)
        return stepped / stepped.sum(-1, keepdims=True)

    def exact(log_score: jax.Array, probs: jax.Array) -> jax.Array:
        return diffusion.exact_cp_step(probs, log_score, sigma, sigma_next)

    both = (log_score, probs)
    return {
        "marginal": (lambda probs: diffusion.marginal(probs, sigma), (probs,), 2 * array),
        "loss": (loss, both, 2 * array),  # two in, one number an image out
        "gradient": (gradient, both, 3 * array),
        "euler_cp_step": (euler, both, 3 * array),
        "exact_cp_step": (exact, both, 3 * array),
    }


def _calls(moved: int) -> int:
    """How many calls a round needs, so that the clock is not what is measured."""
    return min(100, max(1, round(2e8 / moved)))

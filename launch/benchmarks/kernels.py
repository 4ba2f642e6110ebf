"""The class-probability sampler against the K x K matrices that it replaces."""

import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.timing import describe_device, in_turns, peak_bytes, ratios

from didicm_jax import diffusion

_CALLS = 200


def dense_cp_step(probs: jax.Array, log_score: jax.Array, step: float) -> jax.Array:
    """The same Euler step through the reverse-rate matrix of every image, [B, K, K]."""
    num_classes = probs.shape[-1]
    ratio = jnp.exp(log_score[:, None, :] - log_score[:, :, None])  # [b, j, i]: q_i / q_j
    rate = ratio / num_classes * (1 - jnp.eye(num_classes))
    rate = rate - jnp.eye(num_classes) * rate.sum(-1)[:, :, None]
    return probs + step * jnp.einsum("bj,bji->bi", probs, rate)


def run(repeats: int = 5) -> Iterator[dict[str, Any]]:
    """Times one step at B = 64, K = 1000, and weighs a sampler at B = 256, K = 21,841."""
    yield _memory(256, 21_841)  # first: the peak of the process never falls again
    yield _step(64, 1000, repeats)


def _step(batch: int, num_classes: int, repeats: int) -> dict[str, Any]:
    log_score = jax.random.normal(jax.random.key(0), (batch, num_classes))
    schedule = diffusion.loglinear()
    step = float(schedule.rate(1.0)) * (1 - 1e-5)

    @jax.jit
    def ours(log_score: jax.Array) -> jax.Array:
        return diffusion.sample_cp(
            lambda labels, sigma: log_score,
            schedule,
            batch_size=batch,
            num_classes=num_classes,
            steps=1,
        ).probs

    @jax.jit
    def dense(log_score: jax.Array) -> jax.Array:
        start = jnp.full((batch, num_classes), 1 / num_classes)
        probs = jnp.clip(dense_cp_step(start, log_score, step), 0.0, 1.0)
        return probs / probs.sum(-1, keepdims=True)

    difference = jnp.abs(ours(log_score) - dense(log_score)).max()

    def often() -> jax.Array:  # too short for the clock
        for _ in range(_CALLS):
            result = ours(log_score)
        return result

    rounds = in_turns({"ours": often, "dense": lambda: dense(log_score)}, repeats=repeats)
    fast = [each / _CALLS for each in rounds["ours"]]
    return {
        "benchmark": "kernels/sample_cp_one_step",
        "batch": batch,
        "classes": num_classes,
        "microseconds": statistics.median(fast) * 1e6,
        "dense_microseconds": statistics.median(rounds["dense"]) * 1e6,
        "versus": "dense matrices, as many times as fast",
        **ratios(rounds["dense"], fast),
        "largest_difference": float(difference),
        **describe_device(),
    }


def _memory(batch: int, num_classes: int, steps: int = 8) -> dict[str, Any]:
    """Memory of the whole sampler: the compiler's own account, and the growth of the process."""

    def sample(table: jax.Array) -> jax.Array:
        return diffusion.sample_cp(
            lambda labels, sigma: table,
            diffusion.loglinear(),
            batch_size=batch,
            num_classes=num_classes,
            steps=steps,
        ).probs

    before = peak_bytes()
    shape = jax.ShapeDtypeStruct((batch, num_classes), jnp.float32)
    compiled = jax.jit(sample).lower(shape).compile()
    np.asarray(compiled(jnp.zeros(shape.shape)))
    analysis: Any = compiled.memory_analysis()
    total = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    return {
        "benchmark": "kernels/sample_cp_memory",
        "batch": batch,
        "classes": num_classes,
        "steps": steps,
        "compiled_megabytes": total / 1e6,
        "process_growth_megabytes": (peak_bytes() - before) / 1e6,
        "dense_matrices_megabytes": batch * num_classes**2 * 4 / 1e6,
        **describe_device(),
    }

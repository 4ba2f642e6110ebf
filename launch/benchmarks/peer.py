"""The original PyTorch implementation on the same inputs: `launch/bench.py peer --peer=DIR`.

DIR is a checkout of it. Needs torch and timm, which it imports.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import peer_training
from benchmarks.original import Peer, load, record, wait
from benchmarks.timing import describe_device, in_turns

from didicm_jax import diffusion

_CLASSES = 1000
_MODELS = ("didirn18", "didirn50")
_SMALL_TIMES = (1e-2, 1e-3, 1e-4, 1e-5)


def run(peer: Path, repeats: int = 5, batch: int = 8) -> Iterator[dict[str, Any]]:
    """Measures loss, CP step and training step of both in turns.

    Args:
      peer: the checkout.
      repeats: rounds.
      batch: images of a training step.

    Yields:
      A record each: milliseconds of both, and how many times as long the original takes; of the
      loss also how often either is wrong at small times.
    """
    original = load(peer)
    yield _loss(original, repeats)
    yield _cp_step(original, repeats)
    yield _small_times(original)
    for name in _MODELS:
        yield peer_training.run(original, peer, name, batch, repeats)


def _loss(peer: Peer, repeats: int, batch: int = 16) -> dict[str, Any]:
    """The loss of soft labels; the original multiplies K x K matrices of float64 per image."""
    torch, random = peer.torch, np.random.default_rng(0)
    table = random.normal(size=(batch, _CLASSES)).astype(np.float32)
    table_there = torch.from_numpy(table).to(peer.device)
    targets = np.full((batch, _CLASSES), 0.1 / _CLASSES, np.float32)
    targets[:, 0] += 0.9
    targets_there = torch.from_numpy(targets).to(peer.device)
    # Called with `enabled=False` alone.
    original = peer.loss.DiDiCMLoss(_CLASSES, amp_autocast=lambda enabled: nullcontext())
    original = original.to(peer.device)
    schedule = diffusion.loglinear()

    @jax.jit
    def ours(key: jax.Array, table: jax.Array, targets: jax.Array) -> jax.Array:
        return diffusion.didicm_loss(key, lambda labels, sigma: table, targets, schedule)

    arguments = (jax.random.key(0), jnp.asarray(table), jnp.asarray(targets))

    def theirs() -> None:
        with torch.no_grad():
            original(lambda y, c, t: table_there, None, targets_there)
        wait(peer)

    rounds = in_turns(
        {"ours": _times(lambda: ours(*arguments), 50), "theirs": theirs}, repeats=repeats
    )
    return record("peer/loss", rounds, 50, 500, batch=batch, classes=_CLASSES)


def _cp_step(peer: Peer, repeats: int, batch: int = 64) -> dict[str, Any]:
    torch = peer.torch
    table = np.random.default_rng(0).normal(size=(batch, _CLASSES)).astype(np.float32)
    there = torch.from_numpy(table).to(peer.device)
    sampler = peer.sampling.DiDiCMCPSampler(
        "min", num_classes=_CLASSES, noise_type="loglinear", steps=1
    )
    schedule = diffusion.loglinear()

    @jax.jit
    def ours(table: jax.Array) -> jax.Array:
        return diffusion.sample_cp(
            # The original zeroes the score at the label, too.
            lambda labels, sigma: diffusion.parameterization.ratio(table, labels, sigma),
            schedule,
            batch_size=batch,
            num_classes=_CLASSES,
            steps=1,
        ).probs

    array = jnp.asarray(table)

    def theirs() -> Any:
        found = sampler.run(lambda y, c, t: there, there)
        wait(peer)
        return found.cpu().numpy()

    difference = float(np.abs(theirs() - np.asarray(ours(array))).max())
    rounds = in_turns({"ours": _times(lambda: ours(array), 50), "theirs": theirs}, repeats=repeats)
    return record("peer/cp_step", rounds, 50, 500, batch=batch, classes=_CLASSES) | {
        "largest_difference": difference
    }


def _small_times(peer: Peer, batch: int = 1024, steps: int = 50) -> dict[str, Any]:
    """Losses of hard labels in float32 at small times, against the same in float64.

    The original's ratio `1 - K / (expm1(sigma) + K)` loses its digits where sigma << K, and its
    logarithm with them. Also the share of training steps whose loss is not finite, over the
    smallest time that is trained.
    """
    torch, random = peer.torch, np.random.default_rng(0)
    table = random.normal(size=(batch, _CLASSES)).astype(np.float32)
    clean = random.integers(0, _CLASSES, batch)
    original = peer.loss.ConditionalSEDDLoss(_CLASSES).to(peer.device)
    scores, target = (torch.from_numpy(x).to(peer.device) for x in (table, clean))

    def ours(times: np.ndarray, noised: np.ndarray, dtype: Any) -> np.ndarray:
        losses = diffusion.weighted_score_entropy(
            jnp.asarray(table, dtype),
            jax.nn.one_hot(clean, _CLASSES, dtype=dtype),
            jnp.asarray(noised),
            jnp.asarray(times, dtype),
            diffusion.loglinear(),
        )
        return np.asarray(losses)

    def theirs(times: np.ndarray, noised: np.ndarray) -> np.ndarray:
        # As its `forward` does, but for the mean over the batch, and with the score that it zeroes.
        there, label = (torch.from_numpy(x).to(peer.device) for x in (times, noised))
        sigma, rate = original.noise(there)
        masked = scores.scatter(-1, label[:, None], 0.0)
        return (rate * original.graph.score_entropy(masked, sigma, label, target)).cpu().numpy()

    kinds = ("wrong", "not_finite_steps")
    found: dict[str, list[float]] = {f"{w}{k}": [] for k in kinds for w in ("", "original_")}
    # Half of the labels are noised, so that both branches of its formula are seen at every time.
    halves = np.where(np.arange(batch) % 2, clean, (clean + 1) % _CLASSES)
    for time in _SMALL_TIMES:
        same = np.full(batch, time, np.float32)
        with jax.enable_x64(True):
            truth = ours(same, halves, jnp.float64)
        for name, losses in (
            ("wrong", ours(same, halves, jnp.float32)),
            ("original_wrong", theirs(same, halves)),
        ):
            right = np.isclose(losses, truth, rtol=0.01, atol=0)
            found[name].append(float(np.mean(~right)))
        bad = {"not_finite_steps": 0, "original_not_finite_steps": 0}
        for _ in range(steps):
            times = random.uniform(time, 1, batch).astype(np.float32)
            kept = random.random(batch) < 1 - 0.999 * times
            noised = np.where(kept, clean, random.integers(0, _CLASSES, batch))
            bad["not_finite_steps"] += not np.isfinite(ours(times, noised, jnp.float32)).all()
            bad["original_not_finite_steps"] += not np.isfinite(theirs(times, noised)).all()
        for name, count in bad.items():
            found[name].append(count / steps)
    return {
        "benchmark": "peer/small_times",
        "batch": batch,
        "classes": _CLASSES,
        "times": list(_SMALL_TIMES),
        **found,
        **describe_device(),
    }


def _times(call: Callable[[], Any], count: int) -> Callable[[], Any]:
    """A call that is too short for the clock, often."""

    def calls() -> Any:
        result = None
        for _ in range(count):
            result = call()
        return result

    return calls

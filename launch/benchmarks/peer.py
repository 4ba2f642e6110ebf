"""The original PyTorch implementation on the same inputs: `launch/bench.py peer --peer=DIR`.

DIR is a checkout of it. Needs torch and timm, which it imports.
"""

import importlib
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.networks import Setting
from benchmarks.timing import describe_device, in_turns, peak_bytes, ratios
from benchmarks.train import make_step

from didicm_jax import diffusion
from didicm_jax.errors import UserError
from didicm_jax.training import objectives

_CLASSES = 1000
_SIDE = 64
_MODELS = ("didirn18", "didirn50")
_SMALL_TIMES = (1e-2, 1e-3, 1e-4, 1e-5)


class Peer(NamedTuple):
    """The modules of the original that are measured, and torch."""

    torch: Any
    loss: Any
    sampling: Any
    models: Any
    optim: Any
    device: str


def load(folder: Path) -> Peer:
    """Imports the original.

    Raises:
      UserError: it is not there, or what it needs is not installed.
    """
    if not (folder / "didicm" / "loss.py").is_file():
        raise UserError(
            f"--peer: expected a checkout of the original with didicm/loss.py, found none in "
            f"{folder}; clone github.com/omerb01/didicm"
        )
    sys.path.insert(0, str(folder))
    try:
        torch = importlib.import_module("torch")
        return Peer(
            torch,
            importlib.import_module("didicm.loss"),
            importlib.import_module("didicm.score_sampling"),
            importlib.import_module("didicm.models"),
            importlib.import_module("timm.optim"),
            "cuda" if torch.cuda.is_available() else "cpu",
        )
    except ImportError as error:
        raise UserError(
            f"--peer: expected torch and timm to be installed, found {error}; install them"
        ) from error
    finally:
        sys.path.remove(str(folder))


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
        yield _training(original, peer, name, batch, repeats)


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
        _wait(peer)

    rounds = in_turns(
        {"ours": _times(lambda: ours(*arguments), 50), "theirs": theirs}, repeats=repeats
    )
    return _record("peer/loss", rounds, 50, 500, batch=batch, classes=_CLASSES)


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
        _wait(peer)
        return found.cpu().numpy()

    difference = float(np.abs(theirs() - np.asarray(ours(array))).max())
    rounds = in_turns({"ours": _times(lambda: ours(array), 50), "theirs": theirs}, repeats=repeats)
    return _record("peer/cp_step", rounds, 50, 500, batch=batch, classes=_CLASSES) | {
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
    record: dict[str, list[float]] = {f"{w}{k}": [] for k in kinds for w in ("", "original_")}
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
            record[name].append(float(np.mean(~right)))
        bad = {"not_finite_steps": 0, "original_not_finite_steps": 0}
        for _ in range(steps):
            times = random.uniform(time, 1, batch).astype(np.float32)
            kept = random.random(batch) < 1 - 0.999 * times
            noised = np.where(kept, clean, random.integers(0, _CLASSES, batch))
            bad["not_finite_steps"] += not np.isfinite(ours(times, noised, jnp.float32)).all()
            bad["original_not_finite_steps"] += not np.isfinite(theirs(times, noised)).all()
        for name, count in bad.items():
            record[name].append(count / steps)
    return {
        "benchmark": "peer/small_times",
        "batch": batch,
        "classes": _CLASSES,
        "times": list(_SMALL_TIMES),
        **record,
        **describe_device(),
    }


def _training(peer: Peer, folder: Path, name: str, batch: int, repeats: int) -> dict[str, Any]:
    size = Setting(batch, _SIDE, _CLASSES, jnp.float32 if peer.device == "cpu" else jnp.bfloat16)
    calls = {"ours": _our_step(name, size)}
    calls |= {form: _their_step(peer, name, size, form) for form in _forms(peer)}
    rounds = in_turns(calls, repeats=repeats)
    best = min(_forms(peer), key=lambda form: statistics.median(rounds[form]))
    chosen = {"ours": rounds["ours"], "theirs": rounds[best]}
    record = _record(
        f"peer/train/{name}", chosen, 1, 1.2 if name == "didirn50" else None, batch=batch
    )
    return record | {
        "resolution": _SIDE,
        "classes": _CLASSES,
        "theirs_is": best,
        "milliseconds_of_forms": {
            form: 1000 * statistics.median(rounds[form]) for form in _forms(peer)
        },
        "peak_megabytes": _peak(name, batch, None),
        "original_peak_megabytes": _peak(name, batch, folder),
    }


def _forms(peer: Peer) -> tuple[str, ...]:
    """The ways of running the original, of which the fastest counts."""
    if peer.device == "cpu":
        return ("eager", "channels-last")
    return ("channels-last, bfloat16", "channels-last, bfloat16, compiled")


def _our_step(name: str, size: Setting) -> Callable[[], Any]:
    return make_step(name, size, {}, objectives.DiDiCM(diffusion.loglinear())).call


def _their_step(peer: Peer, name: str, size: Setting, form: str) -> Callable[[], Any]:
    """Forward, backward and LAMB, as the original's `train.py` does them."""
    torch = peer.torch
    model = getattr(peer.models, name)(num_classes=size.num_classes).to(peer.device).train()
    layout = torch.channels_last if "channels-last" in form else torch.contiguous_format
    model = model.to(memory_format=layout)
    called = torch.compile(model) if "compiled" in form else model
    optimizer = peer.optim.Lamb(model.parameters(), lr=1e-8, weight_decay=0.01)
    loss_fn = peer.loss.ConditionalSEDDLoss(size.num_classes).to(peer.device)
    random = np.random.default_rng(0)
    # Bytes, as ours gets them, normalised on the device.
    shape = (size.batch, 3, size.resolution, size.resolution)
    pixels = torch.from_numpy(random.integers(0, 256, shape, dtype=np.uint8)).to(peer.device)
    labels = torch.from_numpy(random.integers(0, size.num_classes, size.batch)).to(peer.device)

    def call() -> None:
        images = (pixels.float() / 255 - 0.45).div_(0.225).contiguous(memory_format=layout)
        half = torch.autocast(peer.device, torch.bfloat16, enabled="bfloat16" in form)
        with half:
            loss = loss_fn(called, images, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        _wait(peer)

    return call


def _peak(name: str, batch: int, folder: Path | None) -> float:
    """Peak memory in MB, of the GPU where there is one, in a process that makes two steps."""
    command = [sys.executable, "-m", "benchmarks.peer", name, str(batch)]
    if folder is not None:
        command.append(str(folder.resolve()))
    output = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    ).stdout
    return json.loads(output.splitlines()[-1])


def _two_steps(name: str, batch: int, folder: Path | None) -> float:
    if folder is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        call = _our_step(name, Setting(batch, _SIDE, _CLASSES, dtype))
        jax.block_until_ready([call(), call()])
        stats = jax.local_devices()[0].memory_stats() or {}
        return stats.get("peak_bytes_in_use", peak_bytes()) / 1e6
    original = load(folder)
    dtype = jnp.float32 if original.device == "cpu" else jnp.bfloat16
    call = _their_step(original, name, Setting(batch, _SIDE, _CLASSES, dtype), _forms(original)[0])
    call(), call()
    if original.device == "cpu":
        return peak_bytes() / 1e6
    return original.torch.cuda.max_memory_allocated() / 1e6


def _record(
    benchmark: str,
    rounds: dict[str, list[float]],
    count: int,
    target: float | None,
    **sizes: int,
) -> dict[str, Any]:
    ours = [each / count for each in rounds["ours"]]
    return {
        "benchmark": benchmark,
        **sizes,
        "milliseconds": 1000 * statistics.median(ours),
        "original_milliseconds": 1000 * statistics.median(rounds["theirs"]),
        "versus": "the original, as many times as fast",
        **ratios(rounds["theirs"], ours),
        "target": target,
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


def _wait(peer: Peer) -> None:
    if peer.device == "cuda":
        peer.torch.cuda.synchronize()


if __name__ == "__main__":
    print(
        json.dumps(
            _two_steps(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
        )
    )

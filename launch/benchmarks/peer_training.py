"""A training step of the original beside ours: a part of `launch/bench.py peer`."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.networks import Setting
from benchmarks.original import Peer, load, record, wait
from benchmarks.timing import in_turns, peak_bytes
from benchmarks.train import make_step

from didicm_jax import diffusion
from didicm_jax.training import objectives

_CLASSES = 1000
_SIDE = 64


def run(peer: Peer, folder: Path, name: str, batch: int, repeats: int) -> dict[str, Any]:
    """Measures a training step of both in turns, and the memory of each in a process of its own.

    Args:
      peer: the original.
      folder: its checkout.
      name: of a score model that both have.
      batch: images of a step.
      repeats: rounds.
    """
    size = Setting(batch, _SIDE, _CLASSES, jnp.float32 if peer.device == "cpu" else jnp.bfloat16)
    calls = {"ours": _our_step(name, size)}
    calls |= {form: _their_step(peer, name, size, form) for form in _forms(peer)}
    rounds = in_turns(calls, repeats=repeats)
    best = min(_forms(peer), key=lambda form: statistics.median(rounds[form]))
    chosen = {"ours": rounds["ours"], "theirs": rounds[best]}
    line = record(f"peer/train/{name}", chosen, 1, 1.2 if name == "didirn50" else None, batch=batch)
    return line | {
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
    objective = objectives.DiDiCM(diffusion.loglinear())
    return make_step(name, size, {}, objective).call


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
        wait(peer)

    return call


def _peak(name: str, batch: int, folder: Path | None) -> float:
    """Peak memory in MB, of the GPU where there is one, in a process that makes two steps."""
    command = [sys.executable, "-m", "benchmarks.peer_training", name, str(batch)]
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


if __name__ == "__main__":
    print(
        json.dumps(
            _two_steps(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]) if sys.argv[3:] else None)
        )
    )

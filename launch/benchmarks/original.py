"""The original PyTorch implementation, imported from a checkout of it."""

import importlib
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.timing import describe_device, ratios

from didicm_jax.errors import UserError


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


def wait(peer: Peer) -> None:
    """Waits for what its GPU still does."""
    if peer.device == "cuda":
        peer.torch.cuda.synchronize()


def record(
    benchmark: str,
    rounds: dict[str, list[float]],
    count: int,
    target: float | None,
    **sizes: int,
) -> dict[str, Any]:
    """A line about both in turns.

    Args:
      benchmark: its name.
      rounds: seconds, `ours` of so many calls and `theirs` of one.
      count: of our calls in a round.
      target: how many times as fast ours should be; None: no target.
      **sizes: of the inputs.
    """
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

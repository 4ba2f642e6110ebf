"""The benchmarks by name, one of them or one after another."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from didicm_jax.errors import UserError

NAMES = (
    "kernels",
    "floors",
    "loader",
    "augment",
    "sample",
    "train",
    "peer",
)
# It compiles for devices that must be named, so it is none of `all`.
COMPILED = "preflight"


def run(
    name: str, *, repeats: int | None, peer: Path | str | None, topology: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yields the records of the benchmark that is named, or of `all`.

    Args:
      name: one of `NAMES`, `COMPILED`, or `all`: each of `NAMES` in a process of its own, as what a
        benchmark leaves behind, memory and compiled programs, is not the next one's.
      repeats: rounds of each measurement; None leaves them to the benchmark.
      peer: checkout of the original; without it `all` leaves `peer` out.
      topology: devices that `preflight` compiles for.

    Raises:
      UserError: one of all has failed.
    """
    arguments = {"repeats": repeats, "peer": peer, "topology": topology}
    given = {key: value for key, value in arguments.items() if value is not None}
    if name != "all":
        yield from importlib.import_module(f"benchmarks.{name}").run(**given)
        return
    program = Path(__file__).parents[1] / "bench.py"
    for each in NAMES:
        if each == "peer" and peer is None:
            continue
        shown = given if each == "peer" else {k: v for k, v in given.items() if k != "peer"}
        command = [sys.executable, str(program), each]
        command += [f"--{key}={value}" for key, value in shown.items()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            yield from map(json.loads, process.stdout)
        if process.returncode:
            raise UserError(
                f"{each}: expected it to run to the end, found exit status {process.returncode}; "
                f"run it alone with {program.name} {each}"
            )

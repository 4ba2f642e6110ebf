"""Kills a run again and again, and compares it with one that was left in peace.

    python launch/chaos.py --config=configs/digits.py --kills=20 --seed=0

Further arguments go to `launch/main.py`. The run is killed at random steps, a few milliseconds
to half a second into them, so also while a checkpoint is being written: by SIGKILL, every fourth
time by SIGTERM, and now and then while it starts. Every line of `metrics.jsonl` but its timings
must be the same in the end; the exit status says so.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import kills

MAIN = Path(__file__).with_name("main.py")


def main(argv: list[str]) -> int:
    """Runs both and compares; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", required=True, help="experiment, as for launch/main.py")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and signals")
    parser.add_argument("--main", type=Path, default=MAIN, help=argparse.SUPPRESS)
    parser.add_argument("--workdir", type=Path, help="where to keep both runs; else they are not")
    options, rest = parser.parse_known_args(argv)
    if options.kills < 1:
        parser.error(f"--kills: expected 1 or more, found {options.kills}")
    with tempfile.TemporaryDirectory() as folder:
        return _compare(options, rest, options.workdir or Path(folder))


def _compare(options: argparse.Namespace, rest: list[str], folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    used = [name for name in ("peace", "chaos") if (folder / name).exists()]
    if used:
        print(f"error: --workdir: expected a folder without {used[0]}, found one", file=sys.stderr)
        return 2
    command = [sys.executable, str(options.main), f"--config={options.config}"]
    command += ["--config.train.log_every=1 step", *rest]
    peace, chaos = (kills.Job(command, folder / name) for name in ("peace", "chaos"))
    try:
        began = time.monotonic()
        peace.start()
        peace.finish()
        seconds = time.monotonic() - began
        restarts = kills.torment(chaos, options.kills, random.Random(options.seed), peace.step())
    finally:
        for job in (peace, chaos):
            job.end()
    differing = kills.differences(peace.records(), chaos.records())
    rows = {"kills survived": f"{options.kills}"}
    rows |= kills.summary(restarts, peace.records(), seconds)
    rows["differing lines"] = f"{differing}"
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"| {name:<{width}} | {value} |")
    return 0 if differing == 0 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

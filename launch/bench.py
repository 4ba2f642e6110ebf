"""Benchmarks, one JSON line each: `python launch/bench.py kernels`.

Every ratio is measured within one run. All give medians over `--repeats` rounds but `loader`, the
best round, for it measures processor time beside others, and `variance`, which measures no time:
there a repeat is a pair of draws.
"""

import argparse
import importlib
import json
import sys

NAMES = ("kernels", "loader", "augment", "sample", "train", "variance", "evaluate")


def main(argv: list[str]) -> int:
    """Runs the benchmark that is named; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument(
        "--repeats", type=int, help="rounds of each measurement; left out: as many as it needs"
    )
    options = parser.parse_args(argv)
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, found {options.repeats}")
    benchmark = importlib.import_module(f"benchmarks.{options.name}")
    repeats = {} if options.repeats is None else {"repeats": options.repeats}
    for record in benchmark.run(**repeats):
        print(json.dumps(record), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

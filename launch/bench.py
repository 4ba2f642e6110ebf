"""Benchmarks, one JSON line each: `python launch/bench.py kernels`.

Every ratio is measured within one run. `kernels` and `augment` give medians over `--repeats`
rounds, `loader` the best round, for it measures processor time beside others.
"""

import argparse
import importlib
import json
import sys

NAMES = ("kernels", "loader", "augment")


def main(argv: list[str]) -> int:
    """Runs the benchmark that is named; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--repeats", type=int, default=5, help="rounds of each measurement")
    options = parser.parse_args(argv)
    if options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, found {options.repeats}")
    benchmark = importlib.import_module(f"benchmarks.{options.name}")
    for record in benchmark.run(repeats=options.repeats):
        print(json.dumps(record), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Benchmarks, one JSON line each: `python launch/bench.py kernels`.

Every ratio is measured within one run, its parts in turns, and given as the median over the rounds
(`--repeats`) with the smallest and the largest of them. `all` runs one after another, each in a
process of its own; with `--output` a Markdown table and a bar chart are made of the lines.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import report, running

from didicm_jax.errors import UserError


def main(argv: list[str]) -> int:
    """Runs the benchmark that is named; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=(*running.NAMES, running.COMPILED, "all"))
    parser.add_argument(
        "--repeats", type=int, help="rounds of each measurement; left out: as many as it needs"
    )
    parser.add_argument(
        "--peer",
        help="checkout of the original PyTorch implementation, to measure too; with preflight: "
        "big_vision:DIR or flax:DIR",
    )
    parser.add_argument("--topology", help="devices that preflight compiles for, such as v5e:2x2")
    parser.add_argument("--output", type=Path, help="folder for the lines, a table and a chart")
    options = parser.parse_args(argv)
    if options.repeats is not None and options.repeats < 1:
        parser.error(f"--repeats: expected at least 1, found {options.repeats}")
    if (options.name == "peer") > (options.peer is not None):
        parser.error("--peer: expected a checkout of the original, found none; add --peer=DIR")
    if options.peer is not None and options.name not in ("peer", "all", "preflight"):
        parser.error(
            f"--peer: expected with peer or all or preflight, found with {options.name}; "
            "leave it out"
        )
    if (options.name == "preflight") != (options.topology is not None):
        parser.error("--topology: expected with preflight, and there always; v5e:2x2 or h100:1")
    if options.name == "preflight" and options.repeats is not None:
        parser.error("--repeats: expected none with preflight, which measures nothing")
    try:
        if options.output is not None:
            report.check(options.output)
        records = []
        checkout = options.peer is not None and options.name != "preflight"
        peer = Path(options.peer) if checkout else options.peer
        given = {"repeats": options.repeats, "peer": peer, "topology": options.topology}
        for record in running.run(options.name, **given):
            print(json.dumps(record), flush=True)
            records.append(record)
        if options.output is not None:
            print(report.write(records, options.output))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

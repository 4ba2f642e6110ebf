"""The lines of benchmarks as a file, a Markdown table and a bar chart."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from didicm_jax import files, plots
from didicm_jax.errors import UserError
from didicm_jax.plots import benchmarks as figures

# How `versus` ends where a ratio is a gain, and more is better; elsewhere it is a cost.
_GAIN = "as many times as fast"
# What tells lines of one benchmark apart.
_TELLING = ("resolution", "draws_per_image", "num_workers")


def check(folder: Path) -> None:
    """Makes the folder, before anything is measured.

    Raises:
      UserError: that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fault: OSError | str = "" if files.writable(folder) else f"{folder} read-only"
    except OSError as error:
        fault = error
    if fault:
        raise UserError(
            f"--output: expected a folder that can be written, found {fault}; name another"
        )


def write(records: Sequence[dict[str, Any]], folder: Path) -> str:
    """Writes `benchmarks.jsonl`, `benchmarks.md` and `benchmarks.png`; returns the table."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    files.write_bytes(folder / "benchmarks.jsonl", text.encode())
    compared = [
        {"target": None}
        | record
        | {"name": _name(record), "gain": record["versus"].endswith(_GAIN)}
        for record in records
        if "versus" in record
    ]
    table = _table(compared)
    files.write_bytes(folder / "benchmarks.md", table.encode())
    if compared:
        plots.save(figures.ratios(compared), folder / "benchmarks.png")
    return table


def _name(record: dict[str, Any]) -> str:
    telling = [f"{key} {record[key]}" for key in _TELLING if key in record]
    return ", ".join([record["benchmark"], *telling])


def _table(records: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            record["name"],
            record["versus"],
            f"{record['ratio']:.3g}",
            f"{record['ratio_low']:.3g} to {record['ratio_high']:.3g}",
            f"{record['flops_ratio']:.2f}" if "flops_ratio" in record else "",
            record["target"] or "",
        ]
        for record in records
    ]
    headers = ["benchmark", "measured against", "ratio", "rounds", "operations", "target"]
    # A benchmark of the host alone says nothing of a device.
    devices = [record["device"] for record in records if "device" in record]
    where = f"\n\nOn: {devices[0]}.\n" if devices else "\n"
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True) + where

"""`--mode=preflight`: what a config would cost on devices that one does not have."""

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import ml_collections
from absl import flags
from tabulate import tabulate

from didicm_jax import config as configuration
from didicm_jax import files
from didicm_jax.cli.command_line import counted, writable
from didicm_jax.errors import UserError
from didicm_jax.preflight import topologies

_FILE = "preflight.json"


def run(values: flags.FlagValues, config: ml_collections.ConfigDict | None) -> int:
    """Compiles for `--topology`, prints a table and writes `preflight.json`.

    Returns:
      1 where the training step or the evaluation does not fit into the memory of a device.

    Raises:
      UserError: a flag or the config is wrong, or the compiler for these devices is not installed.
    """
    if config is None:
        raise UserError("--config: expected a config file, found none; try configs/digits.py")
    if not values.topology:
        raise UserError(
            "--topology: expected devices to compile for, found none; add --topology=h100:8"
        )
    configuration.validate(config)
    topology = topologies.find(values.topology)
    output = writable("output", files.place(values.output or ".", "--output"))
    topologies.prepare(topology)
    # Only now: it starts jax.
    from didicm_jax.preflight import described, estimate, program

    estimate.memory_available(topology)  # which may be refused, before minutes of compiling
    dataset = described.dataset(
        config, classes=values.classes, image_size=values.image_size, examples=values.examples
    )
    with _stage("describing the devices and the network"):
        drafted = program.draft(config, dataset, topology)
    with _stage("counting operations"):
        operations = program.operations_per_device(drafted)
    with _stage(f"compiling the training step for {topology.name}"):
        step = program.step(drafted, topology)
    with _stage("compiling the evaluation"):
        evaluation = program.evaluation(drafted, topology)
    found = estimate.report(drafted, topology, step, evaluation, operations)
    print(_table(found))
    output.mkdir(parents=True, exist_ok=True)
    files.write_json(output / _FILE, found)
    print(f"wrote {output / _FILE}")
    if found["fits"] and found["evaluation"]["fits"]:
        return 0
    print(_advice(found))
    return 1


@contextlib.contextmanager
def _stage(name: str) -> Iterator[None]:
    """Says what is being done, and how long it took."""
    print(f"{name} ...", end="", flush=True)
    start = time.monotonic()
    try:
        yield
    finally:
        print(f" {time.monotonic() - start:.0f} s", flush=True)


def _table(found: dict[str, Any]) -> str:
    return "\n\n".join([_summary(found), *_parts(found), "\n".join(_assumed(found))])


def _summary(found: dict[str, Any]) -> str:
    rows = [
        ("devices", f"{found['devices']:,} x {found['chip']}, {counted(found['hosts'], 'host')}"),
        ("parameters", f"{found['parameters']:,}"),
        ("images per device", _per_device(found)),
        ("memory of a step", _memory(found, found["memory_available_bytes"])),
        (
            f"of an evaluation of {found['evaluation']['batch_size']:,}",
            _memory(found["evaluation"], found["memory_available_bytes"]),
        ),
        ("operations per device", f"{found['flops_per_device'] / 1e12:.3g} TFLOP"),
        ("floor at the peak rate", f"{found['compute_floor_milliseconds']:.3g} ms"),
    ]
    if "step_milliseconds" in found:
        rows += _times(found)
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _times(found: dict[str, Any]) -> list[tuple[str, str]]:
    estimated = found["step_milliseconds_is"] == "estimate"
    most = "" if estimated else "at most "
    least = "" if estimated else "at least "
    rows = []
    if estimated:
        whole, some = found["estimated_milliseconds"], found["branches_milliseconds"]
        of_which = f", {some:.3g} ms of them in branches that not every step takes" if some else ""
        rows.append(("a step, as XLA estimates", f"{whole:.3g} ms{of_which}"))
    else:
        bandwidth = f"{found['traffic_bytes'] / 1e9:.3g} GB in {found['kernels']:,} kernels"
        floor = f"{found['traffic_floor_milliseconds']:.3g} ms"
        rows.append(("floor of the memory traffic", f"{floor} ({bandwidth})"))
    rows += [
        ("share of the peak", f"{most}{100 * found['peak_share']:.0f} %"),
        (
            "images a second",
            f"{most}{found['images_per_second_per_chip']:,.0f} a device, "
            f"{found['images_per_second']:,.0f} in all",
        ),
        ("to load on each host", f"{most}{found['images_per_second_per_host']:,.0f} images/s"),
        ("the whole run", f"{found['steps']:,} steps, {least}{found['hours']:.3g} h of training"),
        (
            "all-reduces a step",
            f"{found['all_reduces']:,} of {found['all_reduce_bytes'] / 1e6:,.4g} MB together",
        ),
        ("single pixels gathered", f"at most {found['pixel_gathers']:,} a step"),
    ]
    if found["loops_of_unknown_length"]:
        rows.append(("loops of unknown length", f"{found['loops_of_unknown_length']:,}"))
    if found.get("without_estimate"):
        listed = ", ".join(f"{count:,} {name}" for name, count in found["without_estimate"].items())
        rows.append(("without an estimate", listed))
    if wide := found.get("float32_activations"):
        rows.append(
            (
                "float32 activations",
                f"{wide['bytes'] / 1e9:.3g} GB from {wide['kernels']:,} kernels",
            )
        )
    return rows


def _parts(found: dict[str, Any]) -> list[str]:
    """Two tables: by part, and the most expensive operations."""
    if "largest" not in found:
        return []
    unit, scale = ("milliseconds", 1.0)
    if found["estimated_milliseconds"] is None:
        unit, scale = "traffic_bytes", 1e-9
    parts = [
        (part, f"{milliseconds:.3g}")
        for part, milliseconds in found["estimates_by_part"].items()
        if milliseconds
    ]
    label = "ms" if unit == "milliseconds" else "ms, floor"
    largest = [
        (f"{scale * row[unit]:.3g}", row["part"], row["operation"], row["result"], row["module"])
        for row in found["largest"]
    ]
    header = ("ms" if unit == "milliseconds" else "GB", "part", "operation", "result", "module")
    return [
        tabulate(parts, ("part", label), disable_numparse=True),
        tabulate(largest, header, disable_numparse=True),
    ]


def _assumed(found: dict[str, Any]) -> list[str]:
    return [f"assumed: {each}" for each in found["assumed"]]


def _per_device(found: dict[str, Any]) -> str:
    parts = found["accumulate"]
    return f"{found['images_per_device']:,}" + (f" in {parts} micro-batches" if parts > 1 else "")


def _memory(found: dict[str, Any], available: int) -> str:
    verdict = "fits" if found["fits"] else "does not fit"
    return f"{found['memory_bytes'] / 2**30:.2f} of {available / 2**30:.1f} GiB: {verdict}"


def _advice(found: dict[str, Any]) -> str:
    """What would fit, in one line."""
    if found["fits"]:
        return "the evaluation does not fit: lower config.evaluation.batch_size"
    would = found["would_fit"]
    start = f"does not fit: {would['images_per_device']:,} images per device and micro-batch would"
    advice = ["use more devices"]
    if would["remat"] is not None:
        advice.append(f"config.train.remat={would['remat']}")
    if would["accumulate"] is None:
        advice.append("a lower config.train.batch_size")
    else:
        advice.append(f"config.train.accumulate={would['accumulate']}")
    return f"{start}; {', '.join(advice[:-1])} or {advice[-1]}"

"""Floors, the peer's faults, and what `--output` makes of the lines."""

import json
import os

import bench
import pytest
from benchmarks import floors, original, report

from didicm_jax.errors import UserError


def test_kernels_against_the_copy_of_their_bytes(tmp_path):
    machine, *kernels = floors.run(batch=8, num_classes=12, repeats=3)
    assert machine["copied_gigabytes_per_second"] > 0
    assert machine["matrix_gigaflops_per_second"] > 0
    array = 4e-6 * 8 * 12  # megabytes
    moved = {record["benchmark"].removeprefix("floors/"): record["megabytes"] for record in kernels}
    # In and out; in and in, a number an image out; in, in and out.
    assert moved["marginal"] == pytest.approx(2 * array)
    assert moved["loss"] == pytest.approx(2 * array)
    assert moved["euler_cp_step"] == pytest.approx(3 * array)
    for record in kernels:
        assert record["ratio_low"] <= record["ratio"] <= record["ratio_high"]
        # The kernels are elementwise or row sums: tens of operations a byte at most, never K.
        assert record["operations_per_byte"] < 12
    table = report.write([machine, *kernels], tmp_path)
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| floors/")]
    assert len(rows) == len(kernels)
    assert [row[3].strip() for row in rows] == [f"{record['ratio']:.3g}" for record in kernels]
    lines = [json.loads(line) for line in (tmp_path / "benchmarks.jsonl").read_text().splitlines()]
    assert lines == [machine, *kernels]
    assert (tmp_path / "benchmarks.md").read_text() == table
    assert (tmp_path / "benchmarks.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_can_only_be_read_is_refused_before_anything_is_measured(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may be root's
    with pytest.raises(UserError, match=r"--output: expected a folder that can be written, found"):
        report.check(tmp_path)


def test_a_benchmark_of_the_host_alone_names_no_device(tmp_path):
    line = {"benchmark": "loader", "versus": "x", "ratio": 1, "ratio_low": 1, "ratio_high": 1}
    assert "On:" not in report.write([line], tmp_path)
    assert report.write([line, line | {"device": "a chip"}], tmp_path).endswith("On: a chip.\n")


def test_no_checkout_of_the_original_is_one_line(tmp_path, capsys):
    assert bench.main(["peer", f"--peer={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --peer: expected a checkout of the original")
    assert said.count("\n") == 1


def test_an_original_that_cannot_be_imported_names_what_is_missing(tmp_path):
    (tmp_path / "didicm").mkdir()
    (tmp_path / "didicm" / "loss.py").write_text("import a_module_that_nobody_has\n")
    with pytest.raises(UserError, match="--peer: expected torch and timm to be installed"):
        original.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["peer"], "--peer: expected a checkout"),
        (["kernels", "--peer=somewhere"], "--peer: expected with peer or all"),
        (["preflight"], "--topology: expected with preflight"),
        (["kernels", "--topology=h100:1"], "--topology: expected with preflight"),
        (["preflight", "--topology=h100:1", "--repeats=3"], "--repeats: expected none"),
        (["kernels", "--repeats=0"], "--repeats: expected at least 1"),
        (["nothing"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        bench.main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_an_output_that_cannot_be_made_is_known_before_anything_is_measured(tmp_path, capsys):
    taken = tmp_path / "file"
    taken.write_text("")
    assert bench.main(["kernels", f"--output={taken}"]) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: --output: expected a folder that can be written")
    assert out.out == ""

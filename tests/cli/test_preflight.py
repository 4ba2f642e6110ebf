"""`--mode=preflight`: what it prints and writes, and its mistakes, in one line each."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from didicm_jax.cli import main
from didicm_jax.preflight import program, topologies
from didicm_jax.preflight.program import Compiled
from tests.preflight.recorded import GPU

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT}/configs/digits.py"
SMALL = ("--config.model.width=0.125", "--config.model.dtype=bfloat16")


def preflight(*flags):
    return main.main(["main.py", "--mode=preflight", *flags])


@pytest.fixture
def compiler(monkeypatch):
    """Compilers that answer with a recorded program, of so many bytes."""

    def answer(step_bytes, evaluation_bytes):
        def compiled(size):
            return lambda run, topology: Compiled(GPU, size, size, 1.0)

        monkeypatch.setattr(topologies, "prepare", lambda topology: None)
        monkeypatch.setattr(topologies, "devices", lambda topology: jax.devices()[:4])
        monkeypatch.setattr(program, "operations_per_device", lambda run: 1e12)
        monkeypatch.setattr(program, "step", compiled(step_bytes))
        monkeypatch.setattr(program, "evaluation", compiled(evaluation_bytes))

    return answer


@pytest.mark.parametrize(
    ("step", "evaluation", "status", "advice"),
    [
        (2**30, 2**30, 0, None),
        (100 * 2**30, 2**30, 1, "config.train.remat=blocks or config.train.accumulate=2"),
        (2**30, 100 * 2**30, 1, "config.evaluation.batch_size"),
    ],
)
def test_what_it_says_and_writes(tmp_path, capsys, compiler, step, evaluation, status, advice):
    compiler(step, evaluation)
    folder = tmp_path / "there"
    assert preflight(CONFIG, *SMALL, "--topology=h100:4", f"--output={folder}") == status
    said = capsys.readouterr().out
    assert said.index("compiling the training step for h100:4") < said.index("4 x H100 SXM, 1 host")
    assert "__cublas$lt$matmul" in said
    assert "8,192" in said
    assert (advice or "fits") in said
    found = json.loads((folder / "preflight.json").read_text())
    assert found["fits"] == (step < 60 * 2**30)
    assert found["evaluation"]["fits"] == (evaluation < 60 * 2**30)
    assert found["memory_bytes"] == step


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([CONFIG], "--topology: expected devices"),
        (["--topology=h100:8"], "--config: expected a config file"),
        ([CONFIG, "--topology=v5e:3"], "--topology: expected v5e:2x2"),
        ([CONFIG, "--topology=h100:8", "--workdir=runs"], "--workdir: expected with --mode=train"),
    ],
)
def test_mistakes(capsys, flags, words):
    assert preflight(*flags) == 2
    assert words in capsys.readouterr().err


def test_a_share_of_the_memory_that_is_none_is_refused_before_anything_is_compiled(
    tmp_path, capsys, compiler, monkeypatch
):
    compiler(0, 0)
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "most")
    assert preflight(CONFIG, "--topology=h100:4", f"--output={tmp_path / 'there'}") == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: XLA_CLIENT_MEM_FRACTION: expected a number above 0")
    assert "compiling" not in said.out
    assert not (tmp_path / "there").exists()


def test_a_set_that_nothing_describes(capsys, compiler):
    compiler(0, 0)
    assert preflight(CONFIG, "--config.data.name=birds", "--topology=h100:4") == 2
    assert "--classes: expected a set" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "package"), [("h100:1", "jax_cuda12_plugin"), ("v5e:2x2", "libtpu")]
)
def test_a_small_network_is_compiled(tmp_path, topology, package):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, ROOT / "launch" / "main.py", "--mode=preflight", CONFIG, *SMALL]
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    subprocess.run(
        [*command, f"--topology={topology}", f"--output={tmp_path}"], check=True, env=environment
    )
    found = json.loads((tmp_path / "preflight.json").read_text())
    assert found["fits"]
    assert found["all_reduces"] == 1 or topology == "h100:1"
    assert found["all_reduce_bytes"] < 2 * 4 * found["parameters"]
    parts = found["estimates_by_part"]
    assert min(parts[name] for name in ("forward", "backward", "optimizer")) > 0
    assert len(found["largest"]) == 10
    if topology == "h100:1":
        assert found["traffic_bytes"] > 3 * 4 * found["parameters"]
    else:
        assert found["estimated_milliseconds"] > found["compute_floor_milliseconds"]

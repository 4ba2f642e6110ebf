"""Runs as they really are: processes that talk, are killed, hang, and find the disk full."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests import compiling
from tests.cli.running import DIGITS, ROOT, comparable

PROGRAM = Path(__file__).parents[1] / "shallow.py"
SETTINGS = [
    "--config.data.train_examples=200",
    "--config.train.batch_size=16",
    "--config.train.duration=20 steps",
    "--config.train.log_every=1 step",
    "--config.train.checkpoint_every=10 steps",
    "--config.train.ema_decay=0.9",
    # Not Adam, which blows up the rounding of gradients that are 0, like those before a BatchNorm.
    "--config.optimizer.name=sgd",
    "--config.optimizer.learning_rate=0.01",
    "--config.optimizer.warmup=2 steps",
    "--config.evaluation.batch_size=100",
    "--config.evaluation.every=20 steps",
    "--config.sampler.steps=2",
]
RESNET = [
    *SETTINGS,
    "--config.model.name=didirn4",
    "--config.model.width=0.0625",
    "--config.model.sync_batch_norm=True",
    "--config.evaluation.sets=('all', 'part=train[95%:] every 8 steps')",
]
# One block of one head: compiles three times as fast.
VIT = [
    *SETTINGS,
    "--config.model.name=didivit_ti4",
    "--config.model.width=0.3333",
    "--config.model.depth=1",
    "--config.model.stem=didirn",  # the default, which a ViT does not read
]
DEADLINE = 240  # seconds for anything that should happen: slow machines are no failure


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def start(cache, tmp_path):
    """Starts processes of a run, and leaves none behind."""
    started = []

    def start(
        workdir, *arguments, devices=2, processes=1, slurm=False, program=PROGRAM, apart=None
    ):
        port = free_port()
        group = []
        for index in range(processes):
            several = [
                f"--coordinator_address=localhost:{port}",
                f"--num_processes={processes}",
                f"--process_id={index}",
            ]
            log = tmp_path / f"{len(started)}.log"
            environment = os.environ | {
                "JAX_PLATFORMS": "cpu",
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "PYTHONPATH": str(ROOT),
                "XLA_FLAGS": compiling.flags(devices),
            }
            if slurm:  # what srun would say
                several = []
                environment |= {
                    "SLURM_JOB_ID": "1",
                    "SLURM_STEP_NODELIST": "localhost",
                    "SLURM_NTASKS": str(processes),
                    "SLURM_PROCID": str(index),
                    "SLURM_LOCALID": str(index),
                    "JAX_COORDINATOR_PORT": str(port),
                }
            with log.open("wb") as output:
                command = [sys.executable, str(program), f"--workdir={workdir}", *arguments]
                command += several if processes > 1 else []
                command += (apart or {}).get(index, [])
                # Through a pipe: what is done to the process's files is not done to its words.
                writer = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
            process = subprocess.Popen(
                command, stdout=writer.stdin, stderr=writer.stdin, env=environment, cwd=ROOT
            )
            writer.stdin.close()
            process.log, process.writer = log, writer
            started.append(process)
            group.append(process)
        return group if processes > 1 else group[0]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.writer.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def said(process):
    return process.log.read_text()


def wait_for(process, pattern):
    """Waits until the process has said it."""
    deadline = time.monotonic() + DEADLINE
    while not re.search(pattern, said(process), flags=re.MULTILINE):
        assert process.poll() is None, said(process)
        assert time.monotonic() < deadline, said(process)
        time.sleep(0.02)


def ends(process, status):
    assert process.wait(DEADLINE) == status, said(process)
    process.writer.wait()


def error(process):
    """The one line that says what was wrong; what connects the processes may speak after it."""
    (line,) = [line for line in said(process).splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def alone(main, tmp_path_factory):
    """The run of one process with the four devices of the tests."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert main(DIGITS, f"--workdir={workdir}", *RESNET) == 0
    return workdir


def test_two_processes_are_one_run(alone, main, start, tmp_path):
    """1 x 4 devices and 2 x 2: the same losses to rounding, whoever is told to stop in between."""
    workdir = tmp_path / "run"
    first = start(workdir, DIGITS, *RESNET, processes=2)
    wait_for(first[0], "^step 3/")
    first[1].send_signal(signal.SIGTERM)  # the one that reports nothing
    for process in first:
        ends(process, 0)
    assert "SIGTERM: finishing the step" in said(first[1])
    stopped = int(
        re.search("stopped by a signal to another process at step (\\d+)", said(first[0]))[1]
    )
    assert 3 <= stopped < 20
    second = start(workdir, DIGITS, *RESNET, processes=2, slurm=True)  # found by themselves
    for process in second:
        ends(process, 0)
    assert f"continuing from step {stopped}" in said(second[0])
    assert "4 x cpu of 2 processes" in said(second[0])
    assert "step" not in said(second[1])  # process 0 alone reports
    for ours, theirs in zip(comparable(workdir), comparable(alone), strict=True):
        assert ours.keys() == theirs.keys()
        if "loss" in ours:
            assert ours["step"] == theirs["step"]
            np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=2e-4)
            np.testing.assert_allclose(ours["grad_norm"], theirs["grad_norm"], rtol=1e-2)
    # Of the same weights, each example counts once and alike: restored on one process.
    expected = json.loads((workdir / "evaluation.json").read_text())
    assert main("--mode=evaluate", f"--workdir={workdir}") == 0
    found = json.loads((workdir / "evaluation.json").read_text())
    assert {key: found[key] for key in expected} == expected


SLOW = f"""
import runpy
import time

from didicm_jax import plots
from didicm_jax.evaluation import resampling

def slow_once(function):
    delays = [7]

    def slower(*arguments, **options):
        time.sleep(delays.pop() if delays else 0)
        return function(*arguments, **options)

    return slower

resampling.intervals = slow_once(resampling.intervals)
plots.save = slow_once(plots.save)
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""


def test_what_process_0_does_alone_may_take_longer_than_a_peer_is_waited_for(
    alone, start, tmp_path
):
    """It computes intervals, and it draws."""
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    given = ["--mode=evaluate", "--steps=1,2", "--peer_timeout=5", f"--output={tmp_path / 'out'}"]
    for process in start(alone, *given, processes=2, program=program):
        ends(process, 0)
    # The last of what is written, for which all processes run some images once more.
    assert "<polyline" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_mistake_that_process_0_alone_finds_ends_all(alone, start, tmp_path):
    program = tmp_path / "failing.py"
    program.write_text(
        SLOW.replace(
            "time.sleep(delays.pop() if delays else 0)", "raise UserError('a mistake')"
        ).replace("import time", "from didicm_jax.errors import UserError")
    )
    given = ["--mode=evaluate", f"--output={tmp_path / 'out'}"]
    processes = start(alone, *given, processes=2, program=program)
    for process in processes:
        ends(process, 2)
    assert said(processes[0]).splitlines()[-1] == "error: a mistake"
    assert "process 1: expected process 0 to do its part" in said(processes[1]).splitlines()[-1]


def test_a_mistake_on_one_host_ends_all(start, tmp_path):
    """Before anything is written, and without a wait for one another's end."""
    first, second = start(
        tmp_path / "run", DIGITS, *VIT, processes=2, apart={1: ["--config.augment.shift=8"]}
    )
    for process in (first, second):
        ends(process, 2)
    assert "config.augment.shift: expected less than" in error(second)
    assert "another one refuses it" in error(first)
    assert not (tmp_path / "run").exists()


UNREADABLE = f"""
import runpy
import sys

from didicm_jax import data
from didicm_jax.errors import UserError

whole, calls = data.ArraySource.batch, []

def batch(*arguments):
    calls.append(0)
    if len(calls) > 12:
        raise UserError("a disk is gone")
    return whole(*arguments)

if "--process_id=1" in sys.argv:
    data.ArraySource.batch = batch
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""


def test_images_that_cannot_be_read_on_one_host_end_all(start, tmp_path):
    """Long before the others would have given it up."""
    program = tmp_path / "unreadable.py"
    program.write_text(UNREADABLE)
    first, second = start(tmp_path / "run", DIGITS, *VIT, processes=2, program=program)
    for process in (first, second):
        ends(process, 2)
    assert error(second) == "error: a disk is gone"
    assert "found that process 1 has failed" in error(first)


@pytest.mark.parametrize("kind", ["dead", pytest.param("hung", marks=pytest.mark.slow)])
def test_without_a_peer_the_others_give_up(start, tmp_path, kind):
    processes = start(tmp_path / "run", DIGITS, *RESNET, "--peer_timeout=10", processes=2)
    wait_for(processes[0], "^step 3/")
    processes[1].send_signal(signal.SIGKILL if kind == "dead" else signal.SIGSTOP)
    ends(processes[0], 3)
    last = said(processes[0]).splitlines()[-1]
    assert last.startswith("error: process 0: expected ")
    assert "the same command on every host goes on from the last checkpoint" in last


def test_a_full_disk_is_survived_and_told(start, tmp_path):
    """No file may grow beyond 3,000 bytes for a while: saves and reports fail, training goes on."""
    workdir = tmp_path / "run"
    often = ["--config.train.checkpoint_every=3 steps", "--config.train.duration=40 steps"]
    process = start(workdir, DIGITS, *VIT, *often)
    wait_for(process, "^step 4/")
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (3000, limits[1]))
    wait_for(process, "could not be saved")
    wait_for(process, "a report could not be written")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)
    ends(process, 0)
    steps = [record["step"] for record in comparable(workdir) if "loss" in record]
    assert steps == list(range(1, 41))
    assert (workdir / "checkpoints" / "40").is_dir()


@pytest.mark.slow
def test_a_last_save_that_fails_is_an_error_on_every_process(start, tmp_path):
    """There is no other: one under way, when its folder goes, is waited for ten minutes."""
    workdir = tmp_path / "run"
    once = "--config.train.checkpoint_every=20 steps"
    processes = start(workdir, DIGITS, *VIT, once, processes=2)
    wait_for(processes[0], "^step 12/")
    shutil.move(workdir, tmp_path / "elsewhere")
    for process in processes:
        ends(process, 2)
        assert re.search("^error: --workdir: expected to save", said(process), flags=re.MULTILINE)
    assert said(processes[0]).count("could not be saved") == 1


@pytest.mark.slow
def test_killed_again_and_again_a_run_is_what_it_would_have_been(cache, tmp_path):
    """SIGKILL and SIGTERM at random moments, with a checkpoint every other step."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": compiling.flags(devices=2),
    }
    command = [sys.executable, str(ROOT / "launch" / "chaos.py"), f"--main={PROGRAM}"]
    settings = ["--config.train.checkpoint_every=2 steps", "--config.train.duration=30 steps"]
    done = subprocess.run(
        [*command, DIGITS, "--kills=2", "--seed=1", f"--workdir={tmp_path}", *VIT, *settings],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    table = dict(
        (part.strip() for part in line.strip("|").split("|")) for line in done.stdout.splitlines()
    )
    assert (table["kills survived"], table["differing lines"]) == ("2", "0")
    assert table["lines of metrics.jsonl"] == "32"


def test_a_second_interrupt_leaves_at_once():
    """While the main thread hangs in C, where no handler of Python runs."""
    program = (
        "import signal, ctypes\n"
        "from didicm_jax.training.stopping import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        ctypes.CDLL(None).sleep(100)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert b"SIGINT: finishing the step and saving" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    process.stdout.close()
    process.stderr.close()

"""The entry point on real digits, with a network small enough to compile in seconds."""

import errno
import gzip
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from didicm_jax import parallel
from didicm_jax.cli import dispatch
from didicm_jax.run import Places, worth
from didicm_jax.training import loop
from didicm_jax.training.step import Metrics
from tests.cli.running import DIGITS, SMALL, comparable, interrupt_at, records
from tests.disks import flip


def test_a_run_leaves_everything_behind(run):
    training = [r for r in records(run) if "loss" in r]
    assert [r["step"] for r in training] == list(range(1, 13))
    assert all(np.isfinite(r["loss"]) and r["images_per_second"] > 0 for r in training)
    assert training[-1]["learning_rate"] < max(r["learning_rate"] for r in training)
    evaluations = [r for r in records(run) if "eval/top1" in r]
    assert [r["step"] for r in evaluations] == [8, 12]
    result = json.loads((run / "evaluation.json").read_text())
    assert {"top1", "top5", "nll", "ece", "brier"} <= result.keys()
    assert (result["num_examples"], result["sampler"], result["steps"]) == (360, "cp", 2)
    assert result["top1"] == evaluations[-1]["eval/top1"]
    assert json.loads((run / "config.json").read_text())["train"]["batch_size"] == 16
    assert list((run / "tensorboard").glob("events.out.tfevents.*"))
    # The two latest, and the best where it is another.
    kept = {int(p.name) for p in (run / "checkpoints").iterdir()}
    assert {10, 12} <= kept <= {8, 10, 12}


def test_a_folder_that_one_process_cannot_read_leaves_no_other_waiting(
    main, tmp_path, capsys, told, monkeypatch
):
    """A network folder, or a bucket, that does not answer to it."""

    def begun(self):
        raise OSError(errno.ESTALE, "Stale file handle", "checkpoints")

    monkeypatch.setattr(Places, "begun", property(begun))
    assert main(DIGITS, f"--workdir={tmp_path / 'run'}", *SMALL) == 2
    assert "Stale file handle: 'checkpoints'; mend that" in capsys.readouterr().err
    assert told == [True]


def test_the_plan_is_printed_first(main, tmp_path, capsys, monkeypatch):
    nothing = loop.Outcome(None, 0, "nobody")
    monkeypatch.setattr(loop, "train", lambda run, workdir, **options: nothing)
    assert main(DIGITS, f"--workdir={tmp_path / 'run'}", *SMALL) == 0
    plan = capsys.readouterr().out
    for part in ("4 x cpu", "digits, 200 training and 360 test images of 8x8x1, 10 classes"):
        assert part in plan
    for part in ("didirn4", "parameters", "12 steps of 16 images", "sampler cp, steps 2"):
        assert part in plan


def test_a_profile_has_its_steps_and_no_others(main, run, tmp_path, capsys):
    """The run goes on from step 10; what a profile asks of the steps before it is said."""
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / "12")
    command = [DIGITS, f"--workdir={workdir}", *SMALL]
    assert main(*command, "--profile=12:13") == 0
    assert (
        f"wrote a profile of steps 12 to 12 to {workdir / 'profile'}\n" in capsys.readouterr().out
    )
    [trace] = workdir.glob("profile/plugins/profile/*/*.xplane.pb")
    events = [
        (event.name, dict(event.stats))
        for plane in jax.profiler.ProfileData.from_file(str(trace)).planes
        for line in plane.lines
        for event in line.events
    ]
    assert [stats["step_num"] for name, stats in events if name == "train"] == [12]
    # What ran, and that Perfetto has it too.
    assert any("train_step" in name for name, _ in events)
    with gzip.open(trace.parent / "perfetto_trace.json.gz") as file:
        assert "train_step" in json.dumps(json.load(file)["traceEvents"])
    assert comparable(workdir) == comparable(run)
    assert main(*command, "--profile=3:5") == 0
    assert "no profile is written: step 4 is past\n" in capsys.readouterr().out


@pytest.mark.parametrize("step", [7, pytest.param(12, marks=pytest.mark.slow)])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(
    main, run, tmp_path, monkeypatch, capsys, step
):
    """SIGINT saves and leaves well; every later line is that of the uninterrupted run.

    At step 7 and 12 it comes just before an evaluation, which the next start catches up on.
    """
    workdir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "SIGINT: finishing the step and saving; a second Ctrl-C leaves at once\n"
    )
    stopped = max(r["step"] for r in records(workdir))
    assert f"stopped by SIGINT at step {stopped}; the same command goes on" in captured.out
    assert step - 1 <= stopped <= min(step + 2, 12)
    assert not (workdir / "evaluation.json").exists()
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')  # a line that a kill cut
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    word = "finished at" if stopped == 12 else "continuing from"
    assert f"{word} step {stopped}" in capsys.readouterr().out
    assert comparable(workdir) == comparable(run)
    found, expected = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (workdir, run)
    )
    assert found == expected


def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(main, run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    arrays = max((workdir / "checkpoints" / "12").rglob("*"), key=lambda path: path.stat().st_size)
    flip(arrays)
    assert main("--mode=evaluate", f"--workdir={workdir}") == 2
    assert "expected a whole checkpoint" in capsys.readouterr().err
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    said = capsys.readouterr().out
    assert "checkpoint 12 is damaged" in said
    assert "going on from that of step 10" in said
    assert (workdir / "damaged" / "12").is_dir()
    assert comparable(workdir) == comparable(run)
    assert {10, 12} <= {int(p.name) for p in (workdir / "checkpoints").iterdir()}


def test_a_finished_run_is_only_evaluated(main, run, tmp_path, capsys):
    workdir = shutil.copytree(run, tmp_path / "run")
    before = (workdir / "metrics.jsonl").read_text()
    (workdir / "evaluation.json").unlink()
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    assert "finished at step 12" in capsys.readouterr().out
    assert (workdir / "metrics.jsonl").read_text() == before
    assert json.loads((workdir / "evaluation.json").read_text())["step"] == 12


def test_a_start_learns_from_the_records_what_checkpoints_are_worth(main, run, tmp_path):
    """A full disk may have had room for the record of an evaluation and none for its worth, and
    the run was killed before the next save."""
    workdir = shutil.copytree(run, tmp_path / "run")
    last, earlier = workdir / "checkpoints" / "12", workdir / "checkpoints" / "8"
    known = worth.read(last, print)
    if not earlier.exists():  # one that was evaluated, and is not the best
        shutil.copytree(workdir / "checkpoints" / "10", earlier)
    for each in (last, earlier):
        worth.write(each, None)
    (of_8,) = (x["eval/top1"] for x in records(run) if x["step"] == 8 and "eval/top1" in x)
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    assert worth.read(last, print) == known
    assert worth.read(earlier, print) == of_8
    assert comparable(workdir) == comparable(run)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], {"sampler": "cp", "steps": 2, "query": "min", "integrator": "exact"}),
        (
            ["--config.sampler.name=cl", "--config.sampler.chains=3"],
            {"sampler": "cl", "steps": 2, "chains": 3},
        ),
        (
            # It reads no steps: they are at their default again.
            ["--config.sampler.name=one_shot", "--config.sampler.steps=8"],
            {"sampler": "one_shot", "steps": 1, "time": 0.6},
        ),
    ],
    ids=["cp", "cl", "one_shot"],
)
def test_evaluation_with_any_sampler(main, run, tmp_path, settings, expected):
    """With the config of the workdir, or with it given again and another way to sample."""
    workdir = shutil.copytree(run, tmp_path / "run")
    given = [DIGITS, *SMALL, *settings] if settings else []
    assert main("--mode=evaluate", f"--workdir={workdir}", *given) == 0
    result = json.loads((workdir / "evaluation.json").read_text())
    assert result.items() >= expected.items()
    assert result["num_examples"] == 360
    if not settings:
        # What the run itself wrote when it ended, but for what needs all posteriors at once.
        assert result.pop("best_temperature")["nll"] <= result["nll"]
        assert result == json.loads((run / "evaluation.json").read_text())
        assert len(result["classes"]["worst"]) > 0


def test_a_plain_classifier_runs_through_the_same_step(main, tmp_path):
    settings = ["--config.method=cross_entropy", "--config.model.name=resnet4"]
    workdir = tmp_path / "run"
    settings += ["--config.train.duration=3 steps", "--config.optimizer.name=lamb"]
    small = [word for word in SMALL if "sampler" not in word]
    assert main(DIGITS, f"--workdir={workdir}", *small, *settings) == 0
    assert json.loads((workdir / "evaluation.json").read_text())["sampler"] == "softmax"
    # An untrained classifier is near chance.
    assert records(workdir)[0]["loss"] == pytest.approx(np.log(10), rel=0.3)


@pytest.mark.parametrize("method", ["didicm", "cross_entropy"])
def test_a_run_that_diverges_stops_with_one_line(main, tmp_path, capsys, monkeypatch, method):
    """Found at the step itself, however rarely steps are logged."""
    calls = []

    def diverged(state, batch):
        calls.append(1)
        nan = jnp.float32(jnp.nan)
        count = jnp.int32(len(calls))
        return state, Metrics(nan, nan, count, count, jnp.float32(0), jnp.float32(0))

    monkeypatch.setattr(loop, "make_step", lambda run, donate: diverged)
    settings = ["--config.train.max_skipped=3", "--config.train.log_every=12 steps"]
    small = SMALL
    if method != "didicm":
        settings += [f"--config.method={method}", "--config.model.name=resnet4"]
        small = [word for word in SMALL if "sampler" not in word]
    workdir = tmp_path / "run"
    assert main(DIGITS, f"--workdir={workdir}", *small, *settings) == 2
    error = capsys.readouterr().err
    assert "step 3: expected finite losses, found 3 non-finite steps in a row" in error
    assert "no checkpoint yet" in error
    # What the run does not read is no advice.
    assert ("config.diffusion.min_time" in error) is (method == "didicm")
    assert error.count("\n") == 1
    assert len(calls) == 4  # one step was in flight
    # The last step is asked too.
    calls.clear()
    ends = "--config.train.duration=3 steps"
    assert main(DIGITS, f"--workdir={tmp_path / 'short'}", *small, *settings, ends) == 2
    assert "step 3: expected finite losses" in capsys.readouterr().err
    # What it advises is accepted.
    settings[0] = "--config.train.max_skipped=99"
    assert main(DIGITS, f"--workdir={workdir}", *small, *settings) == 0


def too_large(*_):
    """More than any device has."""
    jnp.zeros(10**14).block_until_ready()


def test_a_step_without_room_says_what_needs_less(main, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "make_step", lambda run, donate: too_large)
    assert main(DIGITS, f"--workdir={tmp_path / 'run'}", *SMALL) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: expected room in the memory of the devices, found RESOURCE_EXH")
    for setting in ("train.batch_size", "train.accumulate", "train.remat", "evaluation.batch_size"):
        assert f"config.{setting}" in error
    assert "--mode=preflight" in error


@pytest.mark.parametrize(
    ("given", "reads_the_setting"),
    [
        (["--mode=evaluate"], True),
        (["--mode=compare", "--baseline={run}"], True),
        (["--mode=compare", "--baseline={run}", "--images=x"], False),
        (["--mode=predict", "--images=x"], False),
    ],
)
def test_a_mode_without_room_says_what_it_reads(
    main, run, capsys, monkeypatch, given, reads_the_setting
):
    monkeypatch.setattr(dispatch, "run", too_large)
    assert main(f"--workdir={run}", *(word.format(run=run) for word in given)) == 2
    error = capsys.readouterr().err
    assert "found RESOURCE_EXHAUSTED" in error
    assert ("config.evaluation.batch_size" in error) is reads_the_setting
    assert "config.train" not in error


def test_one_of_several_without_room_does_not_say_start_again(main, run, monkeypatch):
    """It would come to the same end; and it waits for nobody."""
    said = []

    def one_of_two(*_):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        too_large()

    monkeypatch.setattr(dispatch, "run", one_of_two)
    monkeypatch.setattr(parallel, "leave", lambda message, status: said.append((message, status)))
    main("--mode=evaluate", f"--workdir={run}")
    ((message, status),) = said
    assert message.startswith("error: process 0: expected room in the memory of the devices")
    assert "the same command" not in message
    assert status == 2


@pytest.mark.slow
def test_debug_nans_points_at_the_operation(main, tmp_path):
    settings = [word for word in SMALL if "model" not in word and "sampler" not in word]
    settings += [
        "--config.method=cross_entropy",  # of fewer operations than a diffusion's
        "--config.model.name=vit_ti4",
        "--config.model.stem=didirn",  # the default, which a ViT does not read
        "--config.model.width=0.3333",
        "--config.model.depth=1",
        # Every weight some hundred times as large after each step.
        "--config.optimizer.name=sgd",
        "--config.optimizer.learning_rate=10.0",
        "--config.optimizer.weight_decay=10.0",
    ]
    with pytest.raises(FloatingPointError) as error:
        main(DIGITS, f"--workdir={tmp_path / 'run'}", *settings, "--debug_nans")
    assert "of the batch; the last line above within didicm_jax" in error.value.__notes__[-1]
    assert any("models" in str(entry.path) for entry in error.traceback)

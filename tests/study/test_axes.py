"""A run of a study has one name, and one process at work on it."""

import json
import os
import subprocess
import sys

import cifar as cifar_config
import digits as digits_config
import pytest

from didicm_jax.errors import UserError
from didicm_jax.study import axes
from didicm_jax.study.folder import StudyFolder


@pytest.fixture
def digits():
    return digits_config.get_config()


def study(path, config, text, held_out=5):
    return StudyFolder(path, axes.cells(config, axes.parse(text), held_out))


@pytest.mark.parametrize(
    "text",
    [
        *("data_ratio=0.10,0.1", "seed=1,01", "learning_rate=1e-3,0.001", "flip=true,True"),
        *("duration=60 epochs,60.0 epochs", "duration=1 epoch,1 epochs", "warmup=0 steps,0.0 step"),
    ],
)
def test_a_value_in_two_spellings_is_the_same_value(text):
    with pytest.raises(UserError, match="each axis and each of its values once"):
        axes.parse(text)


def test_a_key_in_two_spellings_is_the_same_axis():
    with pytest.raises(UserError, match="each axis and each of its values once"):
        axes.parse("resolution=8;data.resolution=7")


def test_cells_that_are_the_same_run_are_refused(digits):
    with pytest.raises(UserError, match="cells that differ, found") as error:
        axes.cells(digits, axes.parse("method=softmax;model.name=didirn18,resnet18"), 5)
    assert "method=softmax,model.name=resnet18" in str(error.value)


def test_a_duration_in_another_spelling_finds_the_cell_and_is_one_of_several_starts(
    tmp_path, digits
):
    def products(*texts):
        return axes.union([axes.cells(digits, axes.parse(text), 5) for text in texts])

    before = StudyFolder(tmp_path, products("duration=1 epoch"))
    before.place(before.cells[0]).mkdir(parents=True)
    (cell,) = products("duration=1 epoch", "duration=1.0 epochs")
    assert StudyFolder(tmp_path, [cell]).place(cell) == before.place(before.cells[0])


def test_a_value_that_is_no_name_of_a_folder_is_refused():
    with pytest.raises(UserError, match="values of data_dir of type str"):
        axes.parse("data_dir=a/b,c")


def test_a_cell_whose_name_no_file_system_takes_is_refused(digits):
    numbers = ("learning_rate", "weight_decay", "ema_decay", "label_smoothing", "mixup", "cutmix")
    lengths = ("duration", "log_every", "checkpoint_every", "evaluation.every", "warmup")
    text = ";".join([f"{key}=0.123" for key in numbers] + [f"{key}=900 steps" for key in lengths])
    assert len(axes.cells(digits, axes.parse(text), 5)) == 1
    with pytest.raises(UserError, match=r"names of cells.* of at most 251 bytes, found learning"):
        axes.cells(digits, axes.parse(f"{text};augment.rand_augment=rand-m7-mstd0.5-inc1"), 5)


def test_the_order_and_the_spelling_of_the_axes_find_the_same_cells(tmp_path, digits):
    before = study(tmp_path, digits, "resolution=8,7;seed=0;data_ratio=0.5")
    for cell in before.cells:
        before.place(cell).mkdir(parents=True)
        before.write_record(cell, {"parameters": cell.values["resolution"]})
    after = study(tmp_path, digits, "data.data_ratio=0.50;data.resolution=7,8;seed=0")
    found = {after.place(cell): after.record(cell) for cell in after.cells}
    assert found.keys() == {before.place(cell) for cell in before.cells}
    for cell in after.cells:
        # Under the names that its axes have now, as tables want them.
        assert after.record(cell)["values"] == cell.values
        assert after.record(cell)["parameters"] == cell.values["data.resolution"]


def test_a_study_of_an_earlier_version_goes_on(tmp_path, digits):
    recipe = {"config": json.loads(digits.to_json()), "held_out": 5}
    (tmp_path / "grid.json").write_text(json.dumps(recipe))
    same = study(tmp_path, digits, "seed=0,1")
    same.check(digits, 5)
    with pytest.raises(UserError, match="held_out is 6, was 5"):
        study(tmp_path, digits, "seed=0,1", held_out=6).check(digits, 6)
    same.claim(digits, 5)
    assert [path.name for path in tmp_path.iterdir()] == ["study.json"]
    assert json.loads((tmp_path / "study.json").read_text()) == recipe


def test_a_refusal_has_written_nothing(tmp_path, digits):
    folder = tmp_path / "study"
    arguments = ["study.py", f"--workdir={folder}", "--axes=seed=0"]
    from didicm_jax.cli import study as command

    assert command.main([*arguments, "--config=configs/digits.py", "--axes=colour=red"]) == 2
    assert command.main([*arguments, "--config=configs/digits.py", "--cell=seed=5"]) == 2
    odd = [f"--workdir={tmp_path}/study [a]", "--axes=seed=0", "--config=configs/digits.py"]
    assert command.main(["study.py", *odd]) == 2
    assert not any(tmp_path.iterdir())


def test_a_cell_whose_method_meant_something_else_is_refused(tmp_path, digits):
    """Also where it is done: its result would stand in the table under the title of today."""
    now = study(tmp_path, digits, "method=paper,paper@compute")
    for cell in now.cells:
        now.place(cell).mkdir(parents=True)
        stored = json.loads(cell.config.to_json())
        stored["train"]["duration"] = "7 steps" if cell.equal_compute else "60 epochs"
        (now.place(cell) / "config.json").write_text(json.dumps(stored))
    now.check(digits, 5)
    stored["diffusion"]["draws_per_image"] = 8
    (now.place(now.cells[0]) / "config.json").write_text(json.dumps(stored | {"seed": 0}))
    with pytest.raises(UserError, match=r"draws_per_image is 1, was 8") as error:
        now.check(digits, 5)
    assert "\n" not in str(error.value)


def test_records_alone_are_a_study_that_is_done(tmp_path, digits, capsys):
    """What a repository holds of a study, on a machine that has trained nothing."""
    from didicm_jax.cli import study as command

    text = "resolution=8;method=softmax,paper"
    before = done(tmp_path, digits, text)
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"study.json", "cell.json"}
    arguments = ["study.py", f"--workdir={tmp_path}", "--config=configs/digits.py", "--jobs=1"]
    assert command.main([*arguments, f"--axes={text}"]) == 0
    assert "2 cells, 2 done" in capsys.readouterr().out
    assert (tmp_path / "results.md").exists()
    # A record stands for its method as it was.
    path = before.place(before.cells[1]) / "cell.json"
    stored = json.loads(path.read_text())
    stored["config"]["diffusion"]["min_time"] = 1e-3
    path.write_text(json.dumps(stored))
    assert command.main([*arguments, f"--axes={text}"]) == 2
    assert "min_time is 1e-05, was 0.001" in capsys.readouterr().err


def done(path, config, text):
    """A study of records alone."""
    made = study(path, config, text)
    made.claim(config, 5)
    for cell in made.cells:
        made.place(cell).mkdir(parents=True)
        made.write_record(cell, small_record())
    return made


def test_results_are_shown_whatever_the_encoding_of_the_system(tmp_path, digits):
    """They are stored as UTF-8, with ± in them, and were read as the system writes."""
    done(tmp_path, digits, "resolution=8;method=softmax,paper")
    command = ["launch/study.py", f"--workdir={tmp_path}", "--config=configs/digits.py"]
    ended = subprocess.run(
        [sys.executable, *command, "--axes=resolution=8;method=softmax,paper", "--jobs=1"],
        env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert r"Means \xb1 standard error" in ended.stdout


def test_the_judge_of_checkpoints_may_change_where_none_was_judged(tmp_path, digits):
    before = done(tmp_path, digits, "seed=0")
    digits.evaluation.best = "nll"
    after = study(tmp_path, digits, "seed=0")
    after.check(digits, 5)
    judged = small_record() | {"stopped": {"step": 1, "samplers": []}}
    before.write_record(before.cells[0], judged)
    with pytest.raises(UserError, match=r"evaluation\.best is 'nll', was 'top1'"):
        after.check(digits, 5)


def test_records_leave_out_where_the_data_are(tmp_path):
    """They go on where the same data are in another folder."""
    config = cifar_config.get_config()
    config.data.data_dir = "/where/it/was/prepared"
    done(tmp_path, config, "method=softmax")
    config.data.data_dir = "/elsewhere"
    after = study(tmp_path, config, "method=softmax")
    after.check(config, 5)
    assert after.record(after.cells[0])["config"]["data"]["name"] == "cifar10"
    assert not any("/where" in path.read_text() for path in tmp_path.rglob("*.json"))


def small_record():
    """As a cell writes it, with the least that is in it."""
    metrics = dict.fromkeys(("top1", "top5", "nll", "ece", "ece_equal_mass", "brier"), 0.5)
    metrics |= dict.fromkeys(("entropy", "nll_scaled", "ece_scaled"), 0.5)
    sampler = {"label": "softmax", "sampler": "softmax", "steps": 1, "temperature": 1.0}
    sampler |= {"megaflops": 1.0, "plain_passes": 1.0, "validation": metrics, "test": metrics}
    training = dict.fromkeys(("gigaflops", "step_in_plain_steps", "steps", "images"), 1)
    training |= {"skipped_steps": 0, "exploding_share": 0.0, "largest_grad_norm": 1.0}
    return {"parameters": 1, "training": training, "samplers": [sampler]}


_HOLDER = """
import sys, pathlib, digits
from didicm_jax.study import axes
from didicm_jax.study.folder import StudyFolder
study = StudyFolder(pathlib.Path(sys.argv[1]), axes.cells(digits.get_config(), {"seed": [0]}, 5))
with study.alone(), study.alone(study.cells[0]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_on_one_study_or_cell_are_refused(tmp_path, digits):
    """Also on a cell: it outlives the process that started it, if that one is killed."""
    here = study(tmp_path, digits, "seed=0,1")
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as other:
        assert other.stdout.readline() == b"held\n"
        for cell, name in ((None, "study"), (here.cells[0], "seed=0")):
            with pytest.raises(UserError, match="no other process at work") as error:
                here.alone(cell).__enter__()
            assert f"at work on {name}, found one" in str(error.value)
            assert "\n" not in str(error.value)
        with here.alone(here.cells[1]):
            pass
        other.kill()
    with here.alone(), here.alone(here.cells[0]):
        pass


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.eval_split", "train[95%:]"),
        ("data.eval_split", "test + all[:50%]"),
        ("evaluation.sets", ("a=train[:5%]", "b=test")),
    ],
)
def test_what_judges_is_no_part_of_what_is_trained_or_chosen_on(key, value):
    config = digits_config.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config\.{key}: expected images that no cell trains"):
        axes.cells(config, axes.parse("method=softmax"), 5)

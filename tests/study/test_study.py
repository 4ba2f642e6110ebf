"""A study: what its cells are, that it goes on where it stopped, and what it concludes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import digits as digits_config
import pytest

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.study import axes, methods, results

ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/digits.py"
# One block of one head, a few steps.
SMALL = [
    "--config.model.name=didivit_ti4",
    "--config.model.width=0.3333",
    "--config.model.depth=1",
    "--config.model.stem=didirn",
    "--config.train.duration=3 steps",
    "--config.optimizer.warmup=1 step",
    "--config.evaluation.batch_size=100",
]


def start(*arguments):
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "study.py"), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def digits():
    return digits_config.get_config()


def test_a_study_is_stopped_goes_on_and_concludes(tmp_path):
    """Two methods and a cell that cannot run, which takes nothing from the others."""
    folder = tmp_path / "study"
    given = [DIGITS, *SMALL, f"--workdir={folder}", "--jobs=2"]
    given.append("--axes=method=softmax,paper;train.batch_size=16,5000")
    stopped = start(*given, "--budget=0")
    assert stopped.returncode == 0, stopped.stderr
    assert "stopped with 0 of 4 cells done" in stopped.stdout
    first = start(*given)
    assert first.returncode == 2
    assert "2 cells: expected them to run to the end, found that they failed" in first.stderr
    assert "config.train.batch_size: expected at most the" in first.stdout
    cells = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("cells/*/cell.json")}
    assert sorted(cells) == [
        "method=paper,train.batch_size=16",
        "method=softmax,train.batch_size=16",
    ]
    for cell in cells.values():
        assert cell["training"]["images"] == round(0.95 * 1437)
        assert cell["training"]["skipped_steps"] == 0
        for sampler in cell["samplers"]:
            assert sampler["test"]["num_examples"] == 360
            assert sampler["validation"]["num_examples"] == 72
    softmax = cells["method=softmax,train.batch_size=16"]
    assert softmax["samplers"][0]["plain_passes"] == 1
    paper = cells["method=paper,train.batch_size=16"]
    assert paper["training"]["step_in_plain_steps"] > 1
    assert len(paper["samplers"]) == len(methods.METHODS["paper"].samplers)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1 + len(paper["samplers"])
    assert float(rows[0]["test_top1"]) in {
        sampler["test"]["top1"] for cell in cells.values() for sampler in cell["samplers"]
    }
    for name in ("results.md", "gain_top1.png", "gain_nll.png", "gain_ece.png", "compute.png"):
        assert (folder / name).stat().st_size > 0
    # A normal run: any other mode takes it.
    assert (folder / "cells" / "method=softmax,train.batch_size=16" / "evaluation.json").exists()
    other = start(*given, "--config.train.duration=4 steps")
    assert other.returncode == 2
    assert "expected the study that" in other.stderr
    assert "train.duration is '4 steps', was '3 steps'" in other.stderr


def test_seeds_are_done_one_after_another(digits):
    found = axes.cells(digits, axes.parse("seed=0,1;resolution=8,7;method=softmax,paper"), 5)
    assert [cell.values["seed"] for cell in found] == [0] * 4 + [1] * 4
    assert found[0].name == "seed=0,resolution=8,method=softmax"
    assert len({cell.name for cell in found}) == 8


def test_of_the_sets_of_the_base_the_first_is_the_test_split_of_its_cells(digits):
    digits.evaluation.sets = ("few=test[:90]", "held")
    (cell,) = axes.cells(digits, axes.parse("seed=1"), 10)
    assert (cell.test_split, cell.config.data.eval_split) == ("test[:90]", "train[90%:]")
    assert cell.config.evaluation.sets == ()


def test_every_method_is_valid_and_shares_all_but_what_it_is(digits):
    for name in methods.METHODS:
        text = f"method={name}@compute;learning_rate=0.5"
        (cell,) = axes.cells(digits, axes.parse(text), 10)
        configuration.validate(cell.config)
        assert cell.config.data.train_split == "train[:90%]"
        assert cell.config.data.eval_split == "train[90%:]"
        assert cell.test_split == ""
        assert cell.config.optimizer.learning_rate == 0.5
        for section in ("optimizer", "train"):
            assert cell.config[section] == cell.plain[section]
        assert cell.plain.method == "cross_entropy"
        assert cell.plain.model.stem == digits.model.stem
        if methods.METHODS[name].matched:
            assert cell.config.model.stem == digits.model.stem
            assert cell.config.model.width == cell.plain.model.width


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected axes like"),
        ("resolution", "expected axes like"),
        ("resolution=", "expected axes like"),
        ("resolution=8,8", "each axis and each of its values once"),
        ("seed=0;seed=1", "each axis and each of its values once"),
        ("steps=1", None),
        ("min_time=0.1", "the end of diffusion.min_time and sampler.min_time"),
        ("colour=red", "a key of the config, found 'colour', which is none"),
        ("seed=a", "values of seed of type int"),
        ("learning_rate=nan", "values of learning_rate of type float"),
        ("flip=maybe", "values of flip of type bool"),
        ("mean=0.5", "values of mean of type tuple"),
        ("method=magic", "expected methods among softmax"),
    ],
)
def test_axes_that_are_none_are_one_line(text, message):
    if message is None:
        assert axes.parse(text) == {"steps": [1]}
        return
    with pytest.raises(UserError, match=r"^axes: ") as error:
        axes.parse(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def record(method, seed, top1, nll, validation=0.5, passes=1.0):
    """A cell with two samplers, the second better on the test split."""

    def sampler(number):
        metrics = dict.fromkeys(
            ("top5", "ece", "ece_equal_mass", "brier", "entropy", "nll_scaled", "ece_scaled"), 0.1
        )
        worth = {"top1": top1 + 0.1 * number, "nll": nll - 0.1 * number}
        return {
            "sampler": "cp",
            "integrator": "euler",
            "label": f"sampler {number}",
            "steps": 1,
            "temperature": 1.0,
            "megaflops": 1.0,
            "plain_passes": passes + number,
            "test": metrics | worth,
            "validation": metrics | worth | {"nll": validation - 0.1 * number},
        }

    training = dict.fromkeys(
        ("gigaflops", "step_in_plain_steps", "steps", "images", "skipped_steps"), 1
    ) | {"exploding_share": 0.0, "largest_grad_norm": 1.0}
    return {
        "values": {"resolution": 8, "method": method, "seed": seed},
        "parameters": 10,
        "training": training,
        "samplers": [sampler(0), sampler(1)],
    }


def test_differences_are_paired_and_samplers_chosen_without_the_test_split(tmp_path):
    records = [
        record("smoothed", 0, 0.50, 1.0),
        record("smoothed", 1, 0.60, 1.2),
        record("softmax", 0, 0.40, 0.8),
        record("softmax", 1, 0.40, 0.8),
        record("head", 0, 0.52, 0.7),
        record("head", 1, 0.63, 0.7),
        record("paper", 0, 0.5, 0.7),
    ]
    written = results.write(records, tmp_path)
    assert all(path.exists() for path in written)
    lines = (tmp_path / "results.md").read_text().splitlines()
    rows = {line.split("|")[2].strip(): [c.strip() for c in line.split("|")] for line in lines[2:6]}
    # head may choose: its second sampler, within two passes, is better on the held-out examples.
    assert rows["**head**"][3] == "sampler 1, 1"
    assert rows["paper"][3] == "sampler 0, 1"
    assert rows["**head**"][6] == "67.50 ± 5.50"
    # Against smoothed, the better classifier in top-1: +12 and +13 points.
    assert rows["**head**"][7] == "+12.50 ± 0.50"
    # Against softmax, the better one in NLL.
    assert rows["**head**"][9] == "-0.200 ± 0.000"
    assert rows["smoothed"][7] == ""
    assert rows["paper"][7] == "+0.00"
    # The second sampler costs more than two passes.
    dear = [record("head", seed, 0.5, 0.7, passes=1.5) for seed in (0, 1)]
    results.write(dear, tmp_path)
    assert "sampler 0, 1" in (tmp_path / "results.md").read_text()

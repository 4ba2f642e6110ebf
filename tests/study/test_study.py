"""A study: what its cells are, and that it goes on where it stopped and concludes."""

import csv
import json
from pathlib import Path

import digits as digits_config
import pytest

from didicm_jax import config as configuration
from didicm_jax.cli import study as command
from didicm_jax.errors import UserError
from didicm_jax.study import axes, methods

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
    "--config.evaluation.every=1 step",
    "--config.evaluation.best=nll",
]


def start(*arguments):
    """In this process; the cells that it begins have their own."""
    return command.main([str(ROOT / "launch" / "study.py"), *arguments])


@pytest.fixture
def digits():
    return digits_config.get_config()


def test_a_study_is_stopped_goes_on_and_concludes(tmp_path, capsys, monkeypatch):
    """Two methods and a cell that cannot run, which takes nothing from the others."""
    monkeypatch.chdir(ROOT)  # where the config file is named from
    folder = tmp_path / "study"
    given = [DIGITS, *SMALL, f"--workdir={folder}", "--jobs=2"]
    given.append("--axes=method=softmax,head;train.batch_size=16")
    given.append("--axes=method=softmax;train.batch_size=5000")
    assert start(*given, "--budget=0") == 0
    assert "stopped with 0 of 3 cells done" in capsys.readouterr().out
    assert start(*given) == 2
    said = capsys.readouterr()
    assert "1 cell: expected it to run to the end, found that it failed" in said.err
    assert "config.train.batch_size: expected at most the" in said.out
    cells = {p.parent.name: json.loads(p.read_text()) for p in folder.glob("cells/*/cell.json")}
    assert sorted(cells) == [
        "method=head,train.batch_size=16",
        "method=softmax,train.batch_size=16",
    ]
    for cell in cells.values():
        assert cell["training"]["images"] == round(0.95 * 1437)
        assert cell["training"]["skipped_steps"] == 0
        for sampler in cell["samplers"]:
            assert sampler["test"]["num_examples"] == 360
            assert sampler["validation"]["num_examples"] == 72
    for name, cell in cells.items():
        # The checkpoint of the least NLL on what is held out.
        lines = (folder / "cells" / name / "metrics.jsonl").read_text().splitlines()
        seen = {each["step"]: each["eval/nll"] for each in map(json.loads, lines)
                if "eval/nll" in each}  # fmt: skip
        assert seen.keys() == {1, 2, 3}
        assert cell["stopped"]["step"] == min(seen, key=seen.get)
        assert len(cell["stopped"]["samplers"]) == len(cell["samplers"])
        first = cell["stopped"]["samplers"][0]
        assert first["validation"]["nll"] == pytest.approx(min(seen.values()))
    softmax = cells["method=softmax,train.batch_size=16"]
    assert softmax["samplers"][0]["plain_passes"] == 1
    head = cells["method=head,train.batch_size=16"]
    assert head["training"]["step_in_plain_steps"] > 1
    assert len(head["samplers"]) == len(methods.METHODS["head"].samplers)
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (1 + len(head["samplers"]))
    assert {row["checkpoint"] for row in rows} >= {
        str(step) for cell in cells.values() for step in (3, cell["stopped"]["step"])
    }
    assert float(rows[0]["test_top1"]) in {
        sampler["test"]["top1"] for cell in cells.values() for sampler in cell["samplers"]
    }
    for name in (
        "results.md",
        "samplers.md",
        "gain_top1.png",
        "gain_nll.png",
        "gain_ece.png",
        "compute.png",
    ):
        assert (folder / name).stat().st_size > 0
    # A normal run: any other mode takes it.
    assert (folder / "cells" / "method=softmax,train.batch_size=16" / "evaluation.json").exists()
    assert start(*given, "--config.train.duration=4 steps") == 2
    said = capsys.readouterr().err
    assert "expected the study that" in said
    assert "train.duration is '4 steps', was '3 steps'" in said


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
        if methods.METHODS[name].told:
            text += ";data.label_noise=0.4"
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


def test_products_of_axes_are_one_study(digits):
    texts = (
        "resolution=8;stem=small;method=softmax,unmatched;seed=0,1",
        "resolution=16;stem=didirn;method=softmax,unmatched;seed=0",
        "resolution=8;stem=small;method=softmax;seed=0",
    )
    products = [axes.cells(digits, axes.parse(text), 5) for text in texts]
    found = axes.union(products)
    assert [cell.values["seed"] for cell in found] == [0] * 4 + [1] * 2
    # The stem of the paper's baseline goes with that of the others.
    stems = {(c.values["resolution"], c.values["method"]): c.config.model.stem for c in found}
    assert stems == {
        (8, "softmax"): "small",
        (8, "unmatched"): "didirn",
        (16, "softmax"): "didirn",
        (16, "unmatched"): "imagenet",
    }
    other = axes.cells(digits, axes.parse("seed=0;resolution=8"), 5)
    with pytest.raises(UserError, match="axes: expected the same axes in the same order") as error:
        axes.union([products[0], other])
    assert "\n" not in str(error.value)

"""Advice that a message gives must be accepted when it is followed.

A message that names a setting is found by reading the package, and stands in the table below with
the situation in which people see it: `START` of a new run, `AGAIN` when a run is started again or
under way, `LOOK` when it is evaluated, compared or predicted with.
"""

import ast
import re
from pathlib import Path

import pytest

from didicm_jax import config as configuration
from didicm_jax.errors import UserError
from didicm_jax.evaluation import subject
from didicm_jax.evaluation.subject import OtherData
from didicm_jax.run import Description
from didicm_jax.training import plan
from tests.config.test_table import BOTH, PHOTOS, VIT, configured

ROOT = Path(__file__).parents[2]
START, AGAIN, LOOK = "start", "again", "look"

# (file, setting that is advised to change): where it is seen, settings of such a run, a value that
# follows the advice. A setting that is named without advice to change it has no value.
ADVICE = {
    ("augment/mix.py", "train.batch_size"): ((START,), BOTH, 128),
    ("augment/policy.py", "data.mean"): ((START,), {}, (0.3,)),
    ("cli/card.py", "data.name"): ((START,), {}, "idx"),
    ("cli/from_torch.py", "data.mean"): ((START,), {}, (0.3,)),
    ("cli/from_torch.py", "data.std"): ((START,), {}, (0.3,)),
    ("cli/from_torch.py", "model.init_from"): ((START,), {"model.init_from": "x"}, ""),
    ("cli/main.py", "train.batch_size"): ((START,), {}, 32),
    ("cli/main.py", "train.accumulate"): ((START, AGAIN), {}, 2),
    ("cli/main.py", "train.remat"): ((START, AGAIN), {}, "blocks"),
    ("cli/main.py", "evaluation.batch_size"): ((START, AGAIN, LOOK), {}, 32),
    ("cli/preflight.py", "train.batch_size"): ((START,), {}, 32),
    ("cli/preflight.py", "train.accumulate"): ((START, AGAIN), {}, 2),
    ("cli/preflight.py", "train.remat"): ((START, AGAIN), {}, "blocks"),
    ("cli/preflight.py", "evaluation.batch_size"): ((START, AGAIN, LOOK), {}, 32),
    ("cli/prepare.py", "data.max_pixels"): ((START, AGAIN, LOOK), PHOTOS, 10**9),
    ("data/__init__.py", "data.train_examples"): ((START,), {}, 100),
    ("data/__init__.py", "data.data_ratio"): ((START,), {}, 0.5),
    ("data/memory.py", "data.resolution"): ((START,), {}, 8),
    ("data/decode.py", "data.max_pixels"): ((START, AGAIN, LOOK), PHOTOS, 10**9),
    ("data/digits.py", "data.data_dir"): ((START, AGAIN, LOOK), {}, ""),
    ("data/digits.py", "data.name"): ((START,), {}, "idx"),
    ("data/idx.py", "data.data_dir"): ((START, AGAIN, LOOK), {"data.name": "idx"}, "x"),
    ("data/label_noise.py", "data.label_noise"): ((START,), {}, 0.4),
    ("data/records.py", "data.max_broken_share"): ((START, AGAIN, LOOK), PHOTOS, 0.5),
    ("data/source.py", "data.data_dir"): ((START, AGAIN, LOOK), PHOTOS, "x"),
    ("data/tfds.py", "data.name"): ((START,), {}, "birds"),
    ("data/tfds.py", "data.data_dir"): ((START, AGAIN, LOOK), PHOTOS, "x"),
    ("data/splits.py", "data.train_split"): ((START,), PHOTOS, "train"),
    ("data/splits.py", "data.eval_split"): ((START,), PHOTOS, "test"),
    ("data/tfds.py", "data.train_split"): ((START,), PHOTOS, "train[:90%]"),
    ("data/tfds.py", "data.eval_split"): ((START, LOOK), PHOTOS, "train[90%:]"),
    ("preflight/described.py", "data.train_examples"): ((START,), {}, 100),
    ("preflight/described.py", "data.data_ratio"): ((START,), {}, 0.5),
    ("preflight/described.py", "data.train_split"): ((START,), PHOTOS, "train[:90%]"),
    ("run/tracker.py", "report.wandb"): ((START, AGAIN), {"report.wandb": True}, False),
    ("study/axes.py", "data.train_split"): ((START,), {}, "train"),
    ("study/axes.py", "data.eval_split"): ((START,), PHOTOS, "test"),
    ("study/axes.py", "evaluation.sets"): ((START,), {}, ("a=test",)),
    ("study/methods.py", "model.name"): ((START,), {}, "didirn34"),
    ("training/diagnosis.py", "optimizer.learning_rate"): ((START,), {}, 1e-4),
    ("training/diagnosis.py", "model.dtype"): ((START,), {}, "float32"),
    ("training/initial.py", "model.init_from"): ((START,), {"model.init_from": "x"}, ""),
    ("training/initial.py", "model.conditioned_blocks"): ((START,), VIT, 0),
    ("training/initial.py", "model.group_elements"): ((START,), {}, 64),
    ("training/diagnosis.py", "train.max_skipped"): ((START, AGAIN), {}, 500),
    ("training/diagnosis.py", "diffusion.min_time"): ((START,), {}, 0.01),
    ("training/sets.py", "evaluation.sets"): ((START, AGAIN), {}, ("a", "b=train every 1 step")),
    ("training/plan.py", "augment.shift"): ((START,), {}, 2),
    ("training/plan.py", "train.batch_size"): ((START,), {}, 128),
    ("training/plan.py", "train.accumulate"): ((START, AGAIN), {}, 2),
    ("training/plan.py", "optimizer.warmup"): ((START,), {}, "0 steps"),
}
# Seen while a run is under way: what they advise of another run, they say so.
UNDER_WAY = {"augment/mix.py", "cli/main.py", "training/diagnosis.py", "training/plan.py"}


def literal(node):
    """The text of a string in the source, a `?` for each value in it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(literal, node.values))
    if isinstance(node, ast.FormattedValue):
        inner = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant)]
        return "".join(x for x in inner if isinstance(x, str)) or "?"
    return ""


def messages():
    """(file, text) of every string of the package, docstrings apart, that names a setting."""
    for path in sorted((ROOT / "didicm_jax").rglob("*.py")):
        file = str(path.relative_to(ROOT / "didicm_jax"))
        if file.startswith("config/"):
            continue
        tree = ast.parse(path.read_text())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
        }
        inside = {
            id(part)
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for value in node.values
            for part in ast.walk(value)
        }
        for node in ast.walk(tree):
            if id(node) not in docstrings | inside:
                text = literal(node)
                if re.search(r"\bconfig\.[a-z]+\.[a-z_]+", text):
                    yield file, text


def named(text):
    keys = set(re.findall(r"\bconfig\.([a-z]+\.[a-z_]+)", text))
    return keys & configuration.flatten(configuration.default()).keys()


def test_every_message_that_names_a_setting_is_followed_below():
    found = {(file, key) for file, text in messages() for key in named(text)}
    assert ("training/plan.py", "train.batch_size") in found
    assert found == set(ADVICE), "of new messages, say when they are seen"


@pytest.mark.parametrize("site", ADVICE, ids=":".join)
def test_advice_is_accepted_when_it_is_followed(site):
    situations, others, value = ADVICE[site]
    before = configured(others)
    configuration.validate(before)
    after = configured(others | {site[1]: value})
    configuration.validate(after)
    for key in configuration.differences(before, after):
        if AGAIN in situations:
            assert configuration.may_change(key, evaluates=False), key
        if LOOK in situations:
            assert configuration.may_change(key, evaluates=True), key


def test_messages_of_a_run_under_way_say_what_only_a_new_run_can_change():
    for file, text in messages():
        if file not in UNDER_WAY or "expected at most" in text or "expected less" in text:
            continue  # those come before the first step, whatever is restarted
        advice = text.rpartition(";")[2]
        for key in named(advice):
            assert configuration.may_change(key, evaluates=False) or "new run" in advice, text


def test_evaluating_on_another_data_set_reads_the_share_of_broken_images_that_is_given():
    """It went back to its default, so that raising it, as the message says, did nothing."""
    config = configured(PHOTOS | {"data.max_broken_share": 0.5})
    described = Description(("ant", "bee"), (32, 32, 3))
    shown = subject._on_other_data(config, described, OtherData("others")).data
    assert (shown.name, shown.max_broken_share) == ("others", 0.5)


SMALL = {"model.name": "didivit_ti4", "model.width": 0.3333, "model.depth": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"train.batch_size": 30},
        {"train.batch_size": 64, "train.accumulate": 3},
        {
            "train.batch_size": 4,
            "model.name": "didirn18",
            "model.width": 0.125,
            "model.depth": 12,
            "model.stem": "fine",
        },
        {"train.batch_size": 12, "augment.mixup": 0.2},
        {"train.batch_size": 10, "augment.cutmix": 0.2},
    ],
)
def test_the_batch_that_a_message_names_is_accepted_and_the_batch_need_not_change(changes):
    """On four devices; a run that goes on after a change of devices keeps its batch."""
    config = configured(SMALL | changes)
    with pytest.raises(UserError, match="; use another number of devices or") as error:
        plan.make_plan(config)
    text = str(error.value)
    assert "\n" not in text
    config.train.batch_size = int(re.search(r"in a new run, config\.\S+=(\d+)", text)[1])
    assert plan.make_plan(config).config is config

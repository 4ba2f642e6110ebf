"""A run that starts from another's weights."""

import shutil

import digits as digits_config
import jax
import numpy as np

from didicm_jax import data
from didicm_jax.inference import network
from didicm_jax.inference.predictor import Predictor
from didicm_jax.run import Places, RunFolder, bundle
from didicm_jax.training import plan
from tests.cli.running import DIGITS, SMALL, interrupt_at


def test_it_starts_as_the_source_predicts_and_goes_on_without_it(
    main, run, tmp_path, monkeypatch, capsys
):
    source, workdir = shutil.copytree(run, tmp_path / "source"), tmp_path / "run"
    given = [DIGITS, f"--workdir={workdir}", *SMALL, f"--config.model.init_from={source}"]
    interrupt_at(monkeypatch, 2)
    assert main(*given) == 0
    monkeypatch.undo()
    said = capsys.readouterr().out
    assert f" arrays of {source}, step 12\n" in said
    assert "stopped by SIGINT" in said

    shutil.rmtree(source)
    places = Places(workdir)
    for later in places.checkpoints.iterdir():
        if later.name != "0":
            shutil.rmtree(later)
    images = data.load("digits").test.batch(np.arange(8))["image"]
    posteriors = [Predictor.from_workdir(folder)(images).probs for folder in (workdir, run)]
    np.testing.assert_array_equal(*posteriors)
    assert main(*given) == 0
    assert places.evaluation_file.exists()

    # Where nothing is saved, the source is asked for.
    shutil.rmtree(places.checkpoints)
    assert main(*given) == 2
    assert "error: config.model.init_from: expected a network of" in capsys.readouterr().err


def parity(data_dir):
    """Digits that are even or odd."""
    digits = data.load("digits")

    def source(of):
        batch = of.batch(np.arange(len(of)))
        return data.ArraySource(batch["image"], batch["label"] % 2)

    return data.Dataset(source(digits.train), source(digits.test), ("even", "odd"), (8, 8, 1))


def test_of_other_classes_the_state_has_all_but_the_head(run, monkeypatch):
    """The average starts there too, and the optimizer anew."""
    monkeypatch.setitem(data.LOADERS, "parity", parity)
    config = digits_config.get_config()
    with config.unlocked():
        config.data.name, config.train.ema_decay = "parity", 0.9
        config.model.name, config.model.width = "didirn4", 0.0625
    config.model.init_from = str(run)
    made = plan.make_plan(config)
    found = made.new_state()
    trained = network.load(RunFolder.open(run), "latest", made.mesh).variables
    jax.tree.map(np.testing.assert_array_equal, found.ema, found.variables)
    assert not any(np.any(x) for x in jax.tree.leaves(found.opt_state))
    assert int(found.step) == 0
    ours, theirs = (dict(bundle.flatten(x)) for x in (found.variables, trained))
    fresh = {"params.fc.kernel", "params.fc.bias", "params.embedding.label.embedding"}
    for name in ours.keys() - fresh:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert {len(ours[name].T) for name in fresh} == {2, 128}  # of two classes
    assert made.describe().endswith("; fresh: embedding.label, fc, because the classes differ")


def test_a_refusal_leaves_no_folder(main, run, tmp_path, capsys):
    workdir = tmp_path / "run"
    given = [DIGITS, f"--workdir={workdir}", *SMALL, "--config.model.width=0.125"]
    assert main(*given, f"--config.model.init_from={run}") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: config.model.width: expected 0.0625, as {run} has it, found 0."
    )
    assert not workdir.exists()

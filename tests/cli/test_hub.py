"""A run to a folder for the Hub, and what can be done with that."""

import dataclasses
import json
import re
import shutil

import numpy as np
from safetensors.numpy import load_file

from didicm_jax.inference.predictor import Predictor
from didicm_jax.run import RunFolder
from tests.cli.cards import card, commands
from tests.cli.looking import one_line, table
from tests.cli.running import DIGITS


def test_prediction_without_a_run(main, tiny, run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [f"--images={folder / 'digit0.png'}", "--max_figures=0"]
    assert main("--mode=predict", f"--pretrained={tiny}", *given) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predictions"]
    (row,) = table(tmp_path / "predictions" / "predictions.csv")
    expected = Predictor.from_workdir(run)([folder / "digit0.png"])
    np.testing.assert_array_equal(
        np.float32([row[name] for name in map(str, range(10))]), expected.probs[0]
    )


def test_the_figures_of_the_card_are_found_again(main, tiny, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("--mode=evaluate", f"--pretrained={tiny}") == 0
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    wanted = json.loads((run / "evaluation.json").read_text())
    assert (found["top1"], found["step"]) == (wanted["top1"], wanted["step"])
    np.testing.assert_allclose(found["nll"], wanted["nll"], rtol=1e-5)


def test_a_run_is_made_of_it(convert, tiny, run, tmp_path):
    workdir = tmp_path / "again"
    assert convert(f"--pretrained={tiny}", f"--workdir={workdir}") == 0
    ours, theirs = (RunFolder.open(folder) for folder in (workdir, run))
    unknown = {"trained_on": "", "judged_on": ""}
    assert ours.description == dataclasses.replace(theirs.description, **unknown)
    # To train on with other images of these classes.
    mine = dataclasses.replace(theirs.description, trained_on="the digest of others")
    assert RunFolder.claim(workdir, ours.config, mine).description == mine
    path = tmp_path / "net"
    assert convert(f"--workdir={workdir}", f"--hub={path}") == 0
    for name, array in load_file(tiny / "model.safetensors").items():
        np.testing.assert_array_equal(load_file(path / "model.safetensors")[name], array)
    metadata, text = card(path)
    assert "model-index" not in metadata  # the new run was not evaluated
    assert "license" not in metadata
    assert "have not been evaluated" in text
    assert "how they were trained is not known here" in text


def test_sampler_and_dtype_are_chosen(convert, run, tmp_path):
    """What was measured with another sampler comes with the flags that give it."""
    path = tmp_path / "net"
    given = ["--sampler=one_shot", "--dtype=bfloat16"]
    assert convert(f"--workdir={run}", f"--hub={path}", *given) == 0
    stored = json.loads((path / "config.json").read_text())["config"]["sampler"]
    assert (stored["name"], stored["steps"]) == ("one_shot", 8)  # which it does not read
    dtypes = {array.dtype.name for array in load_file(path / "model.safetensors").values()}
    assert dtypes == {"float32", "bfloat16"}
    command = re.search(r"--mode=evaluate .*", card(path)[1])[0].split()
    assert {"--sampler=cp", "--integrator=exact", "--query=min", "--steps=2"} <= {*command}
    assert "before the kernels became bfloat16" in card(path)[1]


def test_the_command_of_a_classifiers_card_finds_its_figures(
    main, convert, classifier, tmp_path, monkeypatch
):
    """It has no sampler to name."""
    monkeypatch.chdir(tmp_path)
    assert convert(f"--workdir={classifier}", "--hub=net") == 0
    (words,) = commands(card(tmp_path / "net")[1])
    assert words == ["--mode=evaluate", "--pretrained=net"]
    assert main(*words) == 0
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert found["top1"] == json.loads((classifier / "evaluation.json").read_text())["top1"]


def test_the_command_of_a_card_finds_the_images_again(main, convert, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    workdir = shutil.copytree(run, "run", ignore=shutil.ignore_patterns("compilation_cache"))
    given = ["--split=train", "--examples=60"]
    assert main("--mode=evaluate", f"--workdir={workdir}", *given) == 0
    assert convert(f"--workdir={workdir}", "--hub=net") == 0
    (words,) = commands(card(tmp_path / "net")[1])
    assert main(*words) == 0
    ours, theirs = (
        np.load(folder / "predictions.npz")["ids"].tolist()
        for folder in (tmp_path / "run", tmp_path / "evaluation")
    )
    assert ours == theirs
    assert len(ours) == 60
    metadata, _ = card(tmp_path / "net")
    assert metadata["model-index"][0]["results"][0]["dataset"]["split"] == "train"


def test_mistakes_are_one_line_and_leave_nothing(
    main, convert, tiny, run, folder, tmp_path, capsys
):
    new = tmp_path / "new"
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged, ignore=shutil.ignore_patterns("compilation_cache"))
    record = json.loads((run / "evaluation.json").read_text())
    (damaged / "evaluation.json").write_text(json.dumps({"step": record["step"]}))
    converted = [
        ([f"--workdir={run}", f"--hub={tiny}"], "--hub: expected a new folder"),
        ([f"--workdir={run}", f"--hub={new}", "--steps=1,2"], "--hub: expected one sampler"),
        ([f"--workdir={run}", f"--hub={new}", "--weights=raw"], "--weights: expected with --torch"),
        ([f"--workdir={run}", f"--hub={new}", "--torch=x"], "found --torch and --hub; give one"),
        ([f"--workdir={damaged}", f"--hub={new}"], "expected the record of an evaluation"),
        ([f"--pretrained={tiny}", f"--workdir={run}"], "--workdir: expected a new folder"),
        ([f"--pretrained={tmp_path / 'no'}", f"--workdir={new}"], "--pretrained: expected a net"),
        ([f"--pretrained={tiny}", f"--workdir={new}", "--dtype=float32"], "--dtype: expected with"),
    ]
    for given, message in converted:
        assert convert(*given) == 2
        assert message in one_line(capsys)
    images = "--images=x.png"
    called = [
        (["--mode=predict", "--pretrained=no", images], "--pretrained: expected a network of this"),
        (["--mode=train", f"--pretrained={tiny}"], "with --mode=evaluate or predict, found"),
        (["--mode=predict", f"--pretrained={tiny}", f"--workdir={run}"], "--workdir: expected wi"),
        (["--mode=predict", f"--pretrained={tiny}", "--checkpoint=best"], "--checkpoint: expect"),
        (
            ["--mode=predict", f"--pretrained={tiny}", f"--images={folder}", "--steps=1,2"],
            "one sampler",
        ),
        (["--mode=predict", f"--pretrained={tiny}", DIGITS], "--config: expected without"),
        (["--mode=predict", f"--workdir={tiny}", images], f"--workdir: expected a run in {tiny},"),
        (["--mode=predict", f"--pretrained={run}", images], "--pretrained: expected a network wi"),
        (["--mode=evaluate", f"--pretrained={tiny}", "--data_dir=x"], "--data_dir: expected its"),
    ]
    for given, message in called:
        assert main(*given) == 2
        assert message in one_line(capsys)
    assert not new.exists()

"""Evaluating, comparing, predicting with and reporting on a small run of real digits."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from didicm_jax import data
from didicm_jax.data import corruptions
from didicm_jax.inference.predictor import Predictor
from tests.cli.test_main import DIGITS, SMALL

FIGURES = ["classes.png", "reliability.png", "selective.png", "steps.png"]


@pytest.fixture(scope="module")
def run(main, tmp_path_factory):
    """A trained run; each test writes elsewhere."""
    workdir = tmp_path_factory.mktemp("modes") / "run"
    assert main(DIGITS, f"--workdir={workdir}", *SMALL) == 0
    return workdir


@pytest.fixture(scope="module")
def classifier(main, tmp_path_factory):
    """A plain classifier on the same digits, trained less and with another seed."""
    workdir = tmp_path_factory.mktemp("modes") / "classifier"
    small = [word for word in SMALL if "sampler" not in word]
    settings = ["--config.method=cross_entropy", "--config.model.name=resnet10"]
    settings += ["--config.train.duration=4 steps", "--config.seed=1"]
    assert main(DIGITS, f"--workdir={workdir}", *small, *settings) == 0
    return workdir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Digits as files, one of them in a folder of its own, and two that are no images."""
    path = tmp_path_factory.mktemp("images")
    batch = data.load("digits").test.batch(np.arange(3))
    (path / "more").mkdir()
    for k, image in enumerate(batch["image"]):
        place = path / "more" if k == 2 else path
        Image.fromarray(image[..., 0]).save(place / f"digit{k}.png")
    (path / "broken.png").write_bytes((path / "digit0.png").read_bytes()[:60])
    (path / "notes.txt").write_text("not an image")
    return path


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def is_picture(path):
    with Image.open(path) as image:
        image.load()
        return min(image.size) > 200


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def test_evaluation_with_a_list_of_samplers(main, run, tmp_path, capsys):
    before = json.loads((run / "evaluation.json").read_text())
    chosen = ["--sampler=one_shot,cp", "--integrator=euler", "--steps=1,2", "--trajectories"]
    assert main("--mode=evaluate", f"--workdir={run}", f"--output={tmp_path}", *chosen) == 0
    said = capsys.readouterr().out
    assert "one_shot" in said
    assert re.search(r"cp euler +2 ", said)
    assert "most confused" in said
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert [(r["sampler"], r["steps"]) for r in result["samplers"]] == [
        ("one_shot", 1),
        ("cp", 1),
        ("cp", 2),
    ]
    # The last is what training evaluated with: one record, whoever writes it.
    assert result.keys() == before.keys()
    assert before["samplers"] == result["samplers"][-1:]
    assert (result | {"samplers": before["samplers"]}).items() >= before.items()
    for record in result["samplers"]:
        for key, (low, high) in record["intervals"].items():
            assert low <= high
            if not key.startswith("ece"):  # which is biased upwards on resamples
                assert low <= record[key] <= high
    assert json.loads((run / "evaluation.json").read_text()) == before
    with np.load(tmp_path / "predictions.npz") as found:
        assert found["probs"].shape == (360, 10)
        assert found["trajectory"].shape == (360, 3, 10)
        np.testing.assert_array_equal(found["labels"], data.load("digits").test.labels)
        assert found["ids"].tolist() == [str(k) for k in range(360)]
        top1 = np.mean(np.argmax(found["probs"], axis=1) == found["labels"])
        assert top1 == result["top1"]
        np.testing.assert_array_equal(found["trajectory"][:, -1], found["probs"])
    rows = table(tmp_path / "classes.csv")
    assert [row["class"] for row in rows] == [str(k) for k in range(10)]
    assert sum(int(row["examples"]) for row in rows) == 360
    assert (tmp_path / "confusions.csv").exists()
    assert all(is_picture(tmp_path / name) for name in FIGURES)
    assert not list(tmp_path.glob("*.partial"))


def test_evaluation_of_another_part_of_the_runs_own_data(main, run, tmp_path, capsys):
    """The held-out examples by which a sampler is chosen."""
    given = ["--split=train[90%:]", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    with np.load(tmp_path / "predictions.npz") as found:
        labels = data.load("digits").train.labels
        np.testing.assert_array_equal(found["labels"], labels[1293:])
    capsys.readouterr()
    assert main("--mode=evaluate", f"--workdir={run}", "--split=validation") == 2
    assert "expected" in one_line(capsys)


def test_evaluation_on_part_of_other_data(main, run, tmp_path):
    given = ["--dataset=digits", "--examples=50", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert (result["num_examples"], result["dataset"]) == (50, "digits")


def test_runs_of_other_seeds_are_judged_on_the_same_examples(main, run, classifier, tmp_path):
    judged = []
    for folder in (run, classifier):
        output = tmp_path / folder.name
        given = ["--examples=8", f"--output={output}"]
        assert main("--mode=evaluate", f"--workdir={folder}", *given) == 0
        with np.load(output / "predictions.npz") as found:
            judged.append(found["ids"].tolist())
    assert judged[0] == judged[1]


def test_corruptions_of_a_run_and_its_baseline(main, run, classifier, tmp_path, monkeypatch):
    # In this process: starting others takes longer than the work.
    monkeypatch.setattr(corruptions, "cores", lambda: 1)
    given = ["--corruptions=gaussian_noise,contrast", "--severities=1,5", "--examples=40"]
    given += [f"--baseline={classifier}", f"--output={tmp_path}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())["corruptions"]
    errors = [1 - np.mean(found["run"][name]["top1"]) for name in ("gaussian_noise", "contrast")]
    assert found["run"]["mean_corruption_error"] == pytest.approx(np.mean(errors))
    theirs = [
        1 - np.mean(found["baseline"][name]["top1"]) for name in ("gaussian_noise", "contrast")
    ]
    relative = np.mean(np.array(errors) / theirs)
    assert found["mce_relative_to_baseline"] == pytest.approx(relative)
    assert "mce_relative_to_alexnet" not in found
    assert is_picture(tmp_path / "corruptions.png")


def test_real_labels(main, run, tmp_path, capsys, monkeypatch):
    """Several labels an image, none for some, in the order of the names."""
    labels = data.load("digits").test.labels
    monkeypatch.setattr(
        data.ArraySource, "name", lambda self, index: f"ILSVRC2012_val_{360 - index:08d}.JPEG"
    )
    lists = [[] if k % 2 else [int(labels[359 - k])] for k in range(360)]
    (tmp_path / "real.json").write_text(json.dumps(lists))
    given = [f"--real_labels={tmp_path / 'real.json'}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 0
    assert "ReaL top-1 %" in capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    with np.load(tmp_path / "out" / "predictions.npz") as found:
        right = (np.argmax(found["probs"], axis=1) == found["labels"])[1::2]
    assert (result["top1_real"], result["num_examples_real"]) == (right.mean(), 180)
    (tmp_path / "real.json").write_text("[1, 2")
    assert main("--mode=evaluate", f"--workdir={run}", *given) == 2
    assert "expected the file real.json" in one_line(capsys)


def test_two_runs_compared_on_labels(main, run, classifier, tmp_path, capsys):
    given = [f"--workdir={run}", f"--baseline={classifier}", "--sheet=3", f"--output={tmp_path}"]
    assert main("--mode=compare", *given) == 0
    assert "McNemar" in capsys.readouterr().out
    result = json.loads((tmp_path / "comparison.json").read_text())
    scores = [json.loads((path / "evaluation.json").read_text()) for path in (run, classifier)]
    difference = result["difference"]["top1"]
    assert difference["value"] == pytest.approx(scores[0]["top1"] - scores[1]["top1"])
    assert difference["low"] <= difference["value"] <= difference["high"]
    test = result["mcnemar"]
    gap = (test["only_ours"] - test["only_theirs"]) / 360
    assert gap == pytest.approx(difference["value"])
    rows = table(tmp_path / "disagreements.csv")
    assert len(rows) == result["num_disagreements"] > 0
    assert all(row["run"] != row["baseline"] for row in rows)
    distances = [float(row["total_variation"]) for row in rows]
    assert distances == sorted(distances, reverse=True)
    assert is_picture(tmp_path / "disagreements.png")


def test_two_runs_compared_without_labels(main, run, classifier, folder, tmp_path, capsys):
    given = [f"--workdir={run}", f"--baseline={classifier}", f"--output={tmp_path}"]
    assert main("--mode=compare", *given, f"--images={folder}") == 0
    said = capsys.readouterr()
    assert said.err.count("skipped") == 2
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["num_images"] == 3
    assert "mcnemar" not in result
    assert is_picture(tmp_path / "disagreements.png")


def test_prediction_of_a_folder(main, run, folder, tmp_path, capsys):
    given = [f"--images={folder}", f"--output={tmp_path}", "--gif", "--max_figures=2"]
    assert main("--mode=predict", f"--workdir={run}", *given) == 0
    said = capsys.readouterr()
    for name in ("broken.png", "notes.txt"):
        assert f"{name}: " in next(line for line in said.err.splitlines() if name in line)
    assert said.err.count("skipped") == 2
    rows = table(tmp_path / "predictions.csv")
    assert [Path(row["file"]).name for row in rows] == ["digit0.png", "digit1.png", "digit2.png"]
    paths = [folder / "digit0.png", folder / "digit1.png", folder / "more" / "digit2.png"]
    expected = Predictor.from_workdir(run)([str(path) for path in paths])
    assert [row["class"] for row in rows] == list(expected.classes)
    probs = [[float(row[str(k)]) for k in range(10)] for row in rows]
    np.testing.assert_allclose(probs, expected.probs, rtol=1e-5)
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert [r["class"] for r in records] == list(expected.classes)
    assert records[0]["top"][0]["class"] == expected.classes[0]
    figures = sorted(path.name for path in tmp_path.glob("0*"))
    assert figures == ["0001-digit0.gif", "0001-digit0.png", "0002-digit1.gif", "0002-digit1.png"]
    assert is_picture(tmp_path / "0001-digit0.png")
    with Image.open(tmp_path / "0001-digit0.gif") as image:
        assert image.n_frames == 3
    assert "the first 2 of 3" in said.out


def test_a_classifier_predicts_too(main, classifier, folder, tmp_path):
    given = [f"--images={folder / 'digit0.png'}", f"--output={tmp_path}"]
    assert main("--mode=predict", f"--workdir={classifier}", *given) == 0
    assert is_picture(tmp_path / "0001-digit0.png")


def test_a_report_of_two_runs(main, run, classifier, tmp_path):
    given = [f"--workdir={run},{classifier}", f"--output={tmp_path}"]
    assert main("--mode=report", *given) == 0
    assert is_picture(tmp_path / "report.png")
    text = (tmp_path / "report.html").read_text()
    assert "model.name" in text
    assert "resnet10" in text


def test_mistakes_are_one_line(main, run, classifier, folder, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    a_file = tmp_path / "file"
    a_file.write_text("")
    no_checkpoint = tmp_path / "fresh"
    no_checkpoint.mkdir()
    for name in ("config.json", "dataset.json"):
        (no_checkpoint / name).write_text((run / name).read_text())
    others = tmp_path / "others"
    others.mkdir()
    for name in ("config.json", "dataset.json"):
        (others / name).write_text((run / name).read_text())
    described = json.loads((run / "dataset.json").read_text())
    described["class_names"] = [*described["class_names"][:-1], "ten"]
    (others / "dataset.json").write_text(json.dumps(described))
    (others / "checkpoints").symlink_to(run / "checkpoints")
    of_run, of_folder = f"--workdir={run}", [f"--images={folder}"]
    cases = [
        (["--mode=evaluate", f"--workdir={tmp_path / 'no'}"], "expected a run in"),
        (["--mode=evaluate", f"--workdir={no_checkpoint}"], "expected a latest checkpoint"),
        (["--mode=evaluate", f"--workdir={others}"], "class 9 to be '9' in digits and 'ten'"),
        (["--mode=evaluate", of_run, "--steps=two"], "--steps: expected whole numbers"),
        (["--mode=evaluate", of_run, "--chains=3"], "--chains: expected a sampler that reads it"),
        (["--mode=evaluate", of_run, "--gif"], "--gif: expected with --mode=predict"),
        (["--mode=evaluate", of_run, "--severities=1"], "--severities: expected with"),
        (["--mode=evaluate", of_run, "--corruptions=fogg"], "did you mean fog"),
        (["--mode=evaluate", of_run, f"--baseline={classifier}"], "expected with --corruptions or"),
        (["--mode=evaluate", of_run, "--data_dir=x"], "--data_dir: expected with --dataset"),
        (["--mode=evaluate", of_run, f"--output={a_file}"], "--output: expected a folder"),
        (["--mode=compare", of_run], "--baseline: expected the workdir"),
        (["--mode=compare", of_run, f"--baseline={empty}"], "--baseline: expected a run in"),
        (["--mode=compare", of_run, f"--baseline={run}", "--steps=1,2"], "one sampler, found 2"),
        (["--mode=predict", of_run], "--images: expected files or folders"),
        (["--mode=predict", of_run, f"--images={empty}"], "found no file"),
        (["--mode=predict", of_run, f"--images={tmp_path / 'no.png'}"], "found no"),
        (
            ["--mode=predict", f"--workdir={classifier}", "--steps=2", *of_folder],
            "of method didicm",
        ),
        (["--mode=report"], "--workdir: expected one folder"),
        (["--mode=report", f"--workdir={empty}"], "expected a run with metrics.jsonl"),
        ([DIGITS, f"--workdir={tmp_path / 'new'}", "--images=x"], "--images: expected with"),
    ]
    for given, message in cases:
        assert main(*given) == 2, given
        assert message in one_line(capsys)
    # None of the files is an image: each is named first.
    given = [f"--images={folder / 'notes.txt'}", f"--output={tmp_path / 'out'}"]
    assert main("--mode=predict", of_run, *given) == 2
    said = capsys.readouterr().err.splitlines()
    assert "skipped" in said[0]
    assert "expected at least one image" in said[1]
